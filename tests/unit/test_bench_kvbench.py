"""The load generator counts what is right and nothing else."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from bench.generator import Generator, Load, build
from bench.servers import Server

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="kvbench needs a C compiler")


class Store(http.server.BaseHTTPRequestHandler):
    """PUT, GET, DELETE and POST /batch on a dict."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # an answer is one packet
    values: ClassVar[dict[str, bytes]] = {}
    batches: ClassVar[list[int]] = []
    asked: ClassVar[threading.Event] = threading.Event()

    def do_PUT(self) -> None:
        self.values[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(201, b"{}")

    def do_GET(self) -> None:
        self.asked.set()
        found = self.values.get(self.path)
        self.answer(404 if found is None else 200, found or b"")

    def do_DELETE(self) -> None:
        self.answer(404 if self.values.pop(self.path, None) is None else 200, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        operations = msgspec.msgpack.decode(body)
        self.batches.append(len(operations))
        for _, key, value in operations:
            self.values["/" + key] = value
        results = [[201, "0" * 16, "1/1", None] for _ in operations]
        self.answer(200, msgspec.msgpack.encode(results))

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nobody reads it."""


class Running(Server):
    name = "store"
    batch_path = "/batch"


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return build(tmp_path_factory.mktemp("build"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Server]:
    Store.values.clear()
    Store.batches.clear()
    Store.asked.clear()
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server = Running(tmp_path)
    server.url = f"http://127.0.0.1:{serving.server_port}"
    yield server
    serving.shutdown()
    thread.join()
    serving.server_close()


def small(op: str, *, keys: int, batch: int = 0, step: int = 1, rate: float = 0.0) -> Load:
    return Load(
        op=op, keys=keys, seconds=0.2, connections=2, size=100, batch=batch, step=step, rate=rate
    )


def test_put_then_get_then_delete(generator: Generator, store: Server) -> None:
    assert generator.run(store, small("put", keys=7)).ok == 7
    assert len(Store.values) == 7
    assert generator.run(store, small("get", keys=7)).ok > 7
    assert generator.run(store, small("del", keys=7)).ok == 7
    assert Store.values == {}


def test_wrong_bytes_are_a_failure(generator: Generator, store: Server) -> None:
    generator.run(store, small("put", keys=1))
    path = next(iter(Store.values))
    Store.values[path] = bytes(100)
    report = generator.begin(store, small("get", keys=1)).wait()
    assert report.ok == 0
    assert report.bad_bytes == report.failed > 0


def test_wrong_length_and_missing_are_failures(generator: Generator, store: Server) -> None:
    generator.run(store, small("put", keys=1))
    Store.values[next(iter(Store.values))] = b"short"
    assert generator.begin(store, small("get", keys=1)).wait().bad_length > 0
    Store.values.clear()
    report = generator.begin(store, small("get", keys=1)).wait()
    assert report.ok == 0
    assert report.statuses == {"404": report.failed}


def test_batches_store_what_single_puts_store(generator: Generator, store: Server) -> None:
    generator.run(store, small("put", keys=7))
    one_by_one = dict(Store.values)
    Store.values.clear()
    report = generator.run(store, small("put", keys=7, batch=3))
    assert sorted(Store.batches) == [1, 3, 3]
    assert report.keys == 7
    assert Store.values == one_by_one


def test_step_leaves_keys_out(generator: Generator, store: Server) -> None:
    generator.run(store, small("put", keys=6))
    every = dict(Store.values)
    Store.values.clear()
    generator.run(store, small("put", keys=3, batch=2, step=2))
    assert len(Store.values) == 3
    assert Store.values.items() <= every.items()


def test_open_loop_keeps_its_rate(generator: Generator, store: Server) -> None:
    generator.run(store, small("put", keys=5))
    report = generator.run(store, small("get", keys=5, rate=200.0))
    assert 20 <= report.ok <= 45  # 200/s for 0.2 s


def test_stop_ends_a_run_with_a_report(generator: Generator, store: Server) -> None:
    generator.run(store, small("put", keys=5))
    run = generator.begin(store, Load(op="get", keys=5, size=100, connections=2, rate=1000.0))
    assert Store.asked.wait(10)
    assert run.stop().failed == 0
