"""A request to stop is answered within two seconds, whatever this process is doing.

Work looks for a request between its steps. What has none, such as an import or the loading of a
model, is interrupted; and where a library cannot be interrupted, a process of our own ends. Nothing
that is kept minds: all of it is committed in one step or not at all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

POLL_S = 0.1
PATIENCE_S = 0.5
"""After so long without an end the work is interrupted, and again after as long as that."""
INTERRUPTS = 2
"""After so many in vain a process of our own ends."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_farewells: list[Callable[[], None]] = []
"""What is said before this process ends; none while it belongs to somebody else."""


@contextmanager
def own_process(farewell: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While the block runs, this process does our work alone and may be ended."""
    _farewells.append(farewell)
    try:
        yield
    finally:
        _farewells.pop()


@contextmanager
def stoppable(
    ask: Callable[[], None],
    asked: Callable[[], bool] = lambda: False,
    last: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Ends the block soon after SIGTERM, Ctrl-C or another process's request.

    Outside the main thread, the only one that can be interrupted, it does nothing.

    Args:
        ask: makes the work stop at its next step; it may also raise, where a signal is answered.
        asked: whether another process asked to stop.
        last: what is done before this process ends, if it must.

    Raises:
        KeyboardInterrupt: in the block, at a second signal or where a request was in vain.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch(ask, asked, last)
    before = {number: signal.signal(number, watch.on_signal) for number in _SIGNALS}
    woken_before = signal.set_wakeup_fd(watch.wake, warn_on_full_buffer=False)
    try:
        watch.start()
        try:
            yield
        finally:
            watch.armed = False
    finally:
        watch.end()  # before the handlers are gone: it sends signals
        signal.set_wakeup_fd(woken_before)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Watch(threading.Thread):
    """Sees a signal while the main thread is inside a library, where no handler runs."""

    def __init__(
        self, ask: Callable[[], None], asked: Callable[[], bool], last: Callable[[], None]
    ) -> None:
        super().__init__(name="nuggets-stopping", daemon=True)
        self.armed = True
        self._ask, self._asked, self._last = ask, asked, last
        self._ended = threading.Event()
        self._signals, self._insists = 0, False
        self._woken, self.wake = os.pipe()
        for fd in (self._woken, self.wake):
            os.set_blocking(fd, False)

    def on_signal(self, _number: int, frame: FrameType | None) -> None:
        """Runs in the main thread, as soon as that one is in Python."""
        if not self.armed:
            return
        self._signals += 1
        if self._insists or self._signals > 1:
            if frame is not None and frame.f_globals.get("__name__") == "weakref":
                return  # its callbacks swallow what they raise; the watch sends another signal
            raise KeyboardInterrupt
        self._ask()

    def run(self) -> None:
        """Waits for a request, then for its answer."""
        while not self._ended.wait(POLL_S):
            if self._signalled() or self._asked():
                break
        interrupts = 0
        while not self._ended.wait(PATIENCE_S):
            if interrupts >= INTERRUPTS and _farewells:
                self._end_process()
            self._insists = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            interrupts += 1

    def _signalled(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._woken, 1))
        return False

    def _end_process(self) -> None:
        """Leaves without cleaning up; a disk that hangs does not hold up the last words."""
        for word in (self._last, *_farewells):
            said = threading.Thread(target=word, daemon=True)
            said.start()
            said.join(PATIENCE_S)
        os._exit(1)

    def end(self) -> None:
        """The block is over."""
        self.armed = False
        self._ended.set()
        self.join()
        os.close(self._woken)
        os.close(self.wake)
