"""The recorder against a small server that can be told to make each mistake; the checker must see
every one of them in what was recorded, and nothing where there is none."""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from pulzar.testing.linearizability import Kind, NotLinearizable, Outcome, check
from pulzar.testing.recorder import Answer, Recorder, label_of, outcome_of, value_of

FAULTS = ["stale reads", "conditions ignored", "deletes undone", "writes refused but done"]


class Database:
    """One dict behind one lock, and the mistakes it can make with it."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.lock = threading.Lock()
        self.holds: dict[str, tuple[bytes, int]] = {}
        self.replaced: dict[str, tuple[bytes, int]] = {}
        self.versions = itertools.count(1)
        self.turns = itertools.count(1)

    def answer(self, method: str, key: str, body: bytes, match: str, none_match: str) -> Answer:
        with self.lock:
            now = self.holds.get(key)
            faulty = next(self.turns) % 5 == 0
            stale = self.replaced.get(key)
            if faulty and self.fault == "stale reads" and method == "GET" and stale:
                return Answer(200, stale[1], stale[0])
            if faulty and self.fault == "deletes undone" and now is None and stale:
                self.holds[key] = now = stale
            refused = not condition_holds(now, match, none_match)
            ignored = faulty and self.fault == "conditions ignored"
            if refused and not ignored:
                return self.refusal(method, key, body, faulty=faulty)
            if method != "PUT" and now is None:
                return Answer(404, None, b"", "key_not_found")
            if method == "GET" and now is not None:
                return Answer(200, now[1], now[0])
            version = next(self.versions)
            if now is not None:
                self.replaced[key] = now
            self.holds[key] = (body, version)
            if method == "DELETE":
                del self.holds[key]
            return Answer(200, version, b"")

    def refusal(self, method: str, key: str, body: bytes, *, faulty: bool) -> Answer:
        if method == "GET":
            return Answer(304, None, b"")
        if faulty and self.fault == "writes refused but done" and method == "PUT":
            self.holds[key] = (body, next(self.versions))
        return Answer(412, None, b"", "condition_failed")


def condition_holds(now: tuple[bytes, int] | None, match: str, none_match: str) -> bool:
    tag = "" if now is None else f'"{now[1]:016x}"'
    if match:
        return bool(tag) and match in ("*", tag)
    return not (none_match and tag and none_match in ("*", tag))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    database: Database
    cut_every = 0  # every so many answers are not sent: the connection ends instead

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        key = unquote(self.path.split("/", 2)[2])
        headers = [self.headers.get(name, "") for name in ("If-Match", "If-None-Match")]
        answer = self.database.answer(self.command, key, body, headers[0], headers[1])
        if self.cut_every and next(self.database.turns) % self.cut_every == 0:
            self.close_connection = True
            return
        content = answer.body
        version = "" if answer.version is None else f"{answer.version:016x}"
        if self.command != "GET" or answer.status >= 400:
            content = json.dumps({"version": version, "code": answer.code}).encode()
        self.send_response_only(answer.status)
        if version:
            self.send_header("ETag", f'"{version}"')
        if answer.status == 304:
            self.end_headers()
            return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.do_PUT()

    def do_DELETE(self) -> None:
        self.do_PUT()


@contextmanager
def serving(fault: str = "", *, cut_every: int = 0) -> Iterator[str]:
    attributes = {"database": Database(fault), "cut_every": cut_every}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Faulty", (Handler,), attributes)) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def record(url: str, *, answers: int = 300, seed: int = 0) -> Recorder:
    recorder = Recorder(url, keys=["a", "b/ü"], seed=seed, value_bytes=(16, 300))
    with recorder:
        recorder.wait_for_answers(answers)
    return recorder


def test_a_correct_server_is_accepted() -> None:
    with serving() as url:
        recorder = record(url)
    check(recorder.history)
    assert recorder.surprises == []
    seen = {(operation.kind, operation.outcome) for operation in recorder.history}
    assert len(seen) == 8, "every kind was answered with ok, missing (but put) and refused"


def test_connections_that_die_leave_the_outcome_unknown() -> None:
    with serving(cut_every=7) as url:
        recorder = record(url)
    check(recorder.history)
    assert recorder.surprises == []
    assert any(operation.outcome is Outcome.UNKNOWN for operation in recorder.history)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_server_is_seen(fault: str) -> None:
    with serving(fault) as url:
        recorder = record(url)
    with pytest.raises(NotLinearizable):
        check(recorder.history)


def test_the_clients_follow_a_server_that_moves() -> None:
    with serving() as second:
        with serving() as first:
            recorder = Recorder(first, keys=["a"])
            recorder.start()
            recorder.wait_for_answers(20)
        recorder.url = second
        recorder.wait_for_answers(20)
        recorder.stop()
    assert recorder.surprises == []


@pytest.mark.parametrize("size", [0, 1, 16, 1000])
def test_a_value_is_known_by_its_label_and_length(size: int) -> None:
    value = value_of(f"3.17.{size}")
    assert label_of(value) == f"3.17.{size}"
    assert len(value) == max(size, len(f"3.17.{size};"))
    for torn in (value[:-1], value + b";", value[:-1] + b"\xff", b""):
        assert "nobody wrote" in label_of(torn)


@pytest.mark.parametrize(
    ("kind", "status", "code", "outcome"),
    [
        (Kind.PUT, 201, "", Outcome.OK),
        (Kind.PUT, 404, "key_not_found", None),
        (Kind.PUT, 304, "", None),
        (Kind.PUT, 503, "outcome_unknown", Outcome.UNKNOWN),
        (Kind.PUT, 503, "writes_stopped", Outcome.FAILED),
        (Kind.PUT, 503, "damaged", None),
        (Kind.PUT, 507, "out_of_space", Outcome.FAILED),
        (Kind.DELETE, 507, "out_of_space", None),
        (Kind.DELETE, 404, "unknown_path", None),
        (Kind.GET, 304, "", Outcome.REFUSED),
        (Kind.GET, 503, "outcome_unknown", None),
        (Kind.GET, 500, "internal", None),
    ],
)
def test_what_an_answer_proves(kind: Kind, status: int, code: str, outcome: Outcome | None) -> None:
    assert outcome_of(kind, Answer(status, None, b"", code)) is outcome
