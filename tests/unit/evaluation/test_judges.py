"""The judge's client against a local server that speaks the OpenAI protocol."""

import pytest

from nuggets.errors import BadInput, Cancelled, NuggetsError
from nuggets.evaluation import judges
from nuggets.evaluation.judges import EndpointJudge, JudgeClient, verdict_metrics
from nuggets.progress import InMemoryProgress
from tests.unit.evaluation.judge_server import Server

KEY = "sk-very-secret"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    yield made
    made.stop()


def client(server, waits=None, progress=None, **settings):
    config = EndpointJudge(url=server.url, model="judge-1", **settings)
    return JudgeClient(
        config, lambda judge: KEY, progress, sleep=(waits if waits is not None else []).append
    )


def longer(text):
    a, b = text.split("Answer A:\n")[1].split("\n\nAnswer B:\n")
    return "A" if len(a) > len(b) else "B"


def test_both_orders_are_asked_and_a_consistent_judge_gives_a_whole_win(server):
    server.replies = [longer, longer]
    verdicts = client(server).compare("Why?", "because of it", "so")
    assert verdicts == ("win", "win")
    texts = [body["messages"][1]["content"] for body in server.seen]
    assert "Answer A:\nbecause of it\n\nAnswer B:\nso" in texts[0]
    assert "Answer A:\nso\n\nAnswer B:\nbecause of it" in texts[1]
    assert all("Message:\nWhy?" in text for text in texts)
    assert server.paths == ["/v1/chat/completions"] * 2
    assert server.seen[0]["model"] == "judge-1"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_judge_that_favours_a_place_gives_half_a_win(server):
    server.replies = ["A", "A"]
    verdicts = client(server).compare("q", "x", "y")
    assert verdicts == ("win", "loss")
    assert verdict_metrics(verdicts)["win_rate"] == 0.5


@pytest.mark.parametrize(
    ("replies", "verdicts", "metrics"),
    [
        (["B", "A"], ("loss", "loss"), (0.0, 0.0, 0.0, 0.0)),
        (["T", "T"], ("tie", "tie"), (0.5, 0.5, 0.5, 0.0)),
        (["A", "T"], ("win", "tie"), (0.75, 1.0, 0.5, 0.0)),
        (["A.", "well", "who knows"], ("win", "unreadable"), (0.75, 1.0, 0.5, 0.5)),
        (["A or B", "A", "**B**"], ("win", "win"), (1.0, 1.0, 1.0, 0.0)),
    ],
)
def test_ties_losses_and_unreadable_verdicts(server, replies, verdicts, metrics):
    server.replies = list(replies)
    found = client(server).compare("q", "x", "y")
    assert found == verdicts
    assert tuple(verdict_metrics(found).values()) == metrics


def test_a_busy_endpoint_is_asked_again_after_growing_waits(server):
    server.replies = [429, 503, 500, "A", "B"]
    waits = []
    assert client(server, waits).compare("q", "x", "y") == ("win", "win")
    assert sum(waits) == pytest.approx(1 + 2 + 4)
    assert max(waits) <= 0.2  # so that a cancel is heard


def test_retries_are_bounded_and_the_sentence_says_how_to_go_on(server):
    server.replies = [503] * 9
    with pytest.raises(NuggetsError, match=r"3 attempts \(HTTP status 503\).*resume the run"):
        client(server, attempts=3).compare("q", "x", "y")
    assert len(server.seen) == 3


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_ends_it_at_once_and_never_shows_the_key(server, status):
    server.replies = [status]
    with pytest.raises(NuggetsError, match=f"refused with HTTP status {status}") as failure:
        client(server).compare("q", "x", "y")
    assert KEY not in str(failure.value)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(server, status):
    other = Server()
    server.elsewhere, server.replies = other.url, [status]
    try:
        with pytest.raises(NuggetsError, match=f"refused with HTTP status {status}") as failure:
            client(server).compare("q", "x", "y")
    finally:
        other.stop()
    assert len(server.seen) == 1
    assert (other.paths, other.headers) == ([], [])
    assert KEY not in str(failure.value)


def test_a_key_that_is_cut_where_reading_ends_is_not_shown(server, monkeypatch):
    """The server says nothing but spaces, and then as much of the key as is read."""
    said = f'{{"error": "no: Bearer {KEY}"}}'
    monkeypatch.setattr(judges, "_MAX_REASON_BYTES", said.index(KEY) + len(KEY) - 1)
    server.replies = [401]
    with pytest.raises(NuggetsError) as failure:
        client(server).compare("q", "x", "y")
    assert KEY[:6] not in str(failure.value)


def test_leave_is_asked_for_before_every_request(server):
    left = [KEY, KEY]

    def permit(judge):
        if not left:
            raise BadInput("not any more")
        return left.pop()

    server.replies = ["A", "well"]  # which is asked again
    judge = JudgeClient(EndpointJudge(url=server.url, model="j"), permit)
    with pytest.raises(BadInput, match="not any more"):
        judge.compare("q", "x", "y")
    assert len(server.seen) == 2


def test_nobody_listening_is_a_sentence(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    gone = Server()
    gone.stop()
    with pytest.raises(NuggetsError, match="did not answer in 2 attempts"):
        client(gone, attempts=2).compare("q", "x", "y")


def test_a_wait_ends_when_somebody_cancels(server):
    server.replies = [503] * 9
    progress = InMemoryProgress()
    judge = client(server, progress=progress)
    progress.cancel()
    with pytest.raises(Cancelled):
        judge.compare("q", "x", "y")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "http://user:key@host/v1",
        "http://host/v1?key=1",
        "host/v1",
        "http://ho\nst/v1",
        "http://host\\@evil/v1",
        "http://host /v1",
        "http://@host/v1",
        "http://hоst/v1",
        "http://host:port/v1",
        "http://",
        "http://host/v1#x",
    ],
)
def test_addresses_with_keys_or_other_schemes_are_refused(url):
    with pytest.raises(ValueError, match=r"judge's address must|Port could not"):
        EndpointJudge(url=url, model="m")


def test_the_key_is_in_no_record(server):
    assert KEY not in client(server)._config.model_dump_json()
