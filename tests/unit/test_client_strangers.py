"""The client against what is not Pulzar: nothing of it is taken for an answer."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pulzar.cli import pulzar
from pulzar.cli.exit import UNAVAILABLE, USAGE, run
from pulzar.client import requests
from pulzar.client.requests import Answer
from pulzar.errors import (
    ConditionFailed,
    InvalidKey,
    KeyNotFound,
    PulzarError,
    Unavailable,
    UnexpectedAnswer,
)

PROBLEM = {"content-type": "application/problem+json"}
ETAG = {"etag": '"0000010000000001"'}

Serve = Callable[[int, str, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that gives one and the same answer to everything."""
    started: list[ThreadingHTTPServer] = []

    def start(status: int, content_type: str, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        started.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


COMMANDS = [
    ("ls",),
    ("get", "k"),
    ("get", "k", "FILE"),
    ("get", "-r", "k", "FILE", "--cache", "CACHE"),
    ("stat", "k"),
    ("rm", "k"),
    ("rm", "-r", "k"),
    ("put", "SOURCE", "k"),
    ("compact",),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (200, "text/html", b"<html>welcome</html>"),
        (200, "application/json", b"{}"),
        (404, "text/html", b"<html>no such page</html>"),
        (404, "application/json", b'{"code":"key_not_found"}'),
        (301, "text/html", b""),
    ],
)
def test_another_server_is_named_as_one(
    serve: Serve,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
    content_type: str,
    body: bytes,
) -> None:
    (tmp_path / "source").write_bytes(b"value")
    names = {name.upper(): str(tmp_path / name) for name in ("file", "source", "cache")}
    url = serve(status, content_type, body)
    code = run(pulzar, [*(names.get(word, word) for word in arguments), "--master", url])
    output = capfd.readouterr()
    assert (code, output.out) == (UNAVAILABLE, "")
    assert "is not what Pulzar answers" in output.err or "cannot be read" in output.err
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(404, PROBLEM, b'{"code":"key_not_found"}'), KeyNotFound),
        (Answer(404, PROBLEM), KeyNotFound),  # to HEAD
        (Answer(404, {"content-type": "text/html"}, b"?"), UnexpectedAnswer),
        (Answer(404, PROBLEM, b"cut"), UnexpectedAnswer),
        (Answer(400, PROBLEM, b'{"code":"invalid_key"}'), InvalidKey),
        (Answer(400, {}, b"Bad request"), UnexpectedAnswer),
        (Answer(304, ETAG), ConditionFailed),
        (Answer(304, {}), UnexpectedAnswer),
        (Answer(503, {}, b"a proxy"), Unavailable),
        (Answer(500, PROBLEM, b'{"code":"internal"}'), UnexpectedAnswer),
    ],
)
def test_an_error_counts_only_as_pulzar_says_it(answer: Answer, kind: type[PulzarError]) -> None:
    assert type(requests.error_of(answer)) is kind


@pytest.mark.parametrize("etag", ["", '"1"', "0000010000000001", 'W/"0000010000000001"', '"x"'])
def test_a_value_without_the_etag_of_a_version_is_none(etag: str) -> None:
    headers = {"content-length": "5", "etag": etag}
    with pytest.raises(UnexpectedAnswer):
        requests.read_stat("k", Answer(200, headers))
    assert requests.read_stat("k", Answer(200, headers | ETAG)).size == 5


@pytest.mark.parametrize(
    "master", ["http://127.0.0.1:99999", "http://", "127.0.0.1:9000", "ftp://a", "http://a:b"]
)
def test_what_is_no_address_is_one_clear_sentence(
    capfd: pytest.CaptureFixture[str], master: str
) -> None:
    assert run(pulzar, ["ls", "--master", master]) == USAGE
    said = f"pulzar: {master!r} is not the URL of a server, such as http://127.0.0.1:9000\n"
    assert capfd.readouterr().err == said


def test_https_where_nobody_speaks_it_says_so(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    url = serve(200, "text/html", b"").replace("http:", "https:")
    assert run(pulzar, ["ls", "--master", url]) == UNAVAILABLE
    assert "does not speak TLS; try http://" in capfd.readouterr().err
