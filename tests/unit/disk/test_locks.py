import fcntl
import threading
import time

import pytest

from nuggets.disk.home import device_lock_path
from nuggets.disk.locks import Lock, is_held
from nuggets.runs.devices import device_holder, device_turn


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def test_a_lock_has_one_owner_and_comes_back_on_release(path):
    first, second = Lock(path), Lock(path)
    assert not is_held(path)
    assert first.acquire()
    assert is_held(path)
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    assert not is_held(path)


def test_somebody_who_only_looks_makes_no_start_fail(path):
    lock = Lock(path)
    with path.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not is_held(path)
        threading.Timer(0.1, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        assert lock.acquire()
    lock.release()


def test_a_device_shows_its_holder_and_is_free_afterwards(store):
    assert device_holder("cuda:0") == ""
    with device_turn(["cuda:0"], "run-a", lambda holder: None):
        assert device_holder("cuda:0") == "run-a"
        assert device_holder("cuda:1") == ""
    assert device_holder("cuda:0") == ""


def test_a_device_is_given_in_the_order_of_arrival(store):
    """`early` looks rarely and `late` often: without a line, `late` would be served first."""
    served, waiting = [], {"early": threading.Event(), "late": threading.Event()}

    def work(name, nap):
        def look(holder):
            waiting[name].set()
            time.sleep(nap)

        with device_turn(["cpu"], name, look):
            served.append(name)

    lock = Lock(device_lock_path("cpu"))
    lock.path.parent.mkdir(parents=True)
    assert lock.acquire()
    threads = []
    for name, nap in (("early", 0.7), ("late", 0.0)):
        threads.append(threading.Thread(target=work, args=(name, nap)))
        threads[-1].start()
        assert waiting[name].wait(5)
    lock.release()
    for thread in threads:
        thread.join()
    assert served == ["early", "late"]
    assert not list(lock.path.with_suffix(".line").iterdir())


def test_whoever_stops_waiting_leaves_the_line(store):
    def give_up(holder):
        assert holder == "run-a"
        raise KeyboardInterrupt

    turn = device_turn(["cpu"], "run-b", give_up)
    with device_turn(["cpu"], "run-a", lambda holder: None), pytest.raises(KeyboardInterrupt), turn:
        pass
    with device_turn(["cpu"], "run-c", lambda holder: pytest.fail("nobody is there")):
        pass
