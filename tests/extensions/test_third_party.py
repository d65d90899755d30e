"""Extensions over HTTP, on a real server."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3

from pulzar.client.process import Server
from pulzar.client.sync import Client
from pulzar.clock import SystemClock
from tests.docs.specified import EXAMPLE

pytestmark = pytest.mark.slow

DEADLINE_S = 30.0


class Site:
    """A server with a folder of extensions."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "third_party"
        self.path.mkdir()
        config = tmp_path / "server.conf"
        config.write_text("[third_party]\ntimeout = 3s\nslots = 4\n")
        options = ["--third-party", str(self.path), "--config", str(config)]
        self.data = tmp_path / "data"
        self.server = Server(str(self.data), options=options)
        self.http = urllib3.PoolManager(retries=False, timeout=30, maxsize=64)
        self._clock = SystemClock()

    def module(self, name: str, text: str) -> None:
        (self.path / f"{name}.py").write_text(text)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        answer = self.http.request(method, f"{self.server.url}/third_party/{path}", body=body)
        return answer.status, json.loads(answer.data)

    def until(self, holds: Callable[[], object]) -> None:
        end_s = self._clock.monotonic_s() + DEADLINE_S
        while not holds():
            assert self._clock.monotonic_s() < end_s
            threading.Event().wait(0.02)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    with made.server:
        yield made


def test_the_example_of_the_specification_runs_as_it_stands(site: Site) -> None:
    site.module("example", EXAMPLE)
    assert site.ask("GET", "example/hello") == (200, {"my_arg": "hello"})
    site.until(lambda: "example: Hello example with arg  hello" in site.server.log_tail())


def test_methods_arguments_and_bodies(site: Site) -> None:
    site.module(
        "m",
        "import os\n"
        "def execute(arguments, params, body):\n"
        "    size = os.path.getsize(body) if body else None\n"
        "    return [arguments, params, size]\n",
    )
    assert site.ask("GET", "m") == (200, [[], {}, None])
    assert site.ask("GET", "m/") == (200, [[], {}, None])
    assert site.ask("GET", "m/a//b%2Fc/?x=1&x=%26&y") == (
        200,
        [["a", "", "b/c", ""], {"x": ["1", "&"], "y": [""]}, None],
    )
    assert site.ask("PUT", "m/q", b"x" * 3_000_000) == (200, [["q"], {}, 3_000_000])
    assert site.ask("POST", "m", b"") == (200, [[], {}, 0])
    assert os.listdir(site.data / "third_party") == []
    status, problem = site.ask("DELETE", "m")
    assert (status, problem["code"]) == (405, "method_not_allowed")
    assert site.ask("GET", "m/%ff")[0] == 400


def test_every_failure_has_its_answer(site: Site) -> None:
    site.module(
        "m",
        "import os, time\n"
        "def execute(arguments):\n"
        "    what = arguments[0]\n"
        "    if what == 'raise': {}['a key']\n"
        "    if what == 'sleep': time.sleep(100)\n"
        "    if what == 'die': os._exit(9)\n"
        "    if what == 'nan': return float('nan')\n",
    )
    told = {what: site.ask("GET", f"m/{what}") for what in ("raise", "sleep", "die", "nan")}
    codes = {what: (status, answer["code"]) for what, (status, answer) in told.items()}
    assert codes == {
        "raise": (502, "extension_failed"),
        "sleep": (504, "extension_timeout"),
        "die": (502, "extension_failed"),
        "nan": (502, "extension_failed"),
    }
    assert told["raise"][1]["detail"] == "m: KeyError: 'a key'"
    site.until(lambda: "Traceback" in site.server.log_tail())
    for name in ("nothing", "..%2fm", "%2e%2e/m", "m.py"):
        status, answer = site.ask("GET", name)
        assert (status, answer["code"]) == (404, "unknown_extension")
        assert "m" in answer["detail"]


def test_the_store_answers_while_slow_and_broken_calls_fill_every_slot(site: Site) -> None:
    site.module(
        "m",
        "import os, time\n"
        "def execute(arguments):\n"
        "    if int(arguments[0]) % 3 == 0:\n"
        "        while True: pass\n"
        "    if int(arguments[0]) % 3 == 1: os.abort()\n"
        "    time.sleep(1)\n"
        "    return 'slept'\n",
    )
    with Client(site.server.url) as client:
        client.put("k", b"v")
        with ThreadPoolExecutor(50) as pool:
            calls = [pool.submit(site.ask, "GET", f"m/{n}") for n in range(50)]
            reads = 0
            while not all(call.done() for call in calls):
                assert client.get("k") == b"v"
                reads += 1
        statuses = {call.result()[0] for call in calls}
    assert reads > 100
    assert statuses <= {200, 502, 503, 504}
    assert {200, 502, 504} <= statuses
    assert site.ask("GET", "example/on")[0] == 200


def test_an_extension_that_is_killed_while_it_writes_leaves_whole_keys(site: Site) -> None:
    site.module(
        "m",
        "import os\n"
        "from pulzar import extension\n"
        "def execute(arguments):\n"
        "    extension.put('pid', str(os.getpid()))\n"
        "    for number in range(1_000_000):\n"
        "        extension.put(f'w/{number}', str(number) * 1000)\n",
    )
    with Client(site.server.url) as client, ThreadPoolExecutor(1) as pool:
        call = pool.submit(site.ask, "GET", "m")
        site.until(lambda: client.status()["entries"] > 20)
        os.kill(int(client.get("pid")), signal.SIGKILL)
        status, answer = call.result()
        assert (status, answer["detail"]) == (502, "m: its process ended: SIGKILL")
        keys = [item.key for item in client.list_keys("w/")]
        assert sorted(keys) == sorted(f"w/{number}" for number in range(len(keys)))
        for key in keys:
            assert client.get(key) == (key[2:] * 1000).encode()


def test_search_sees_every_acknowledged_write(site: Site) -> None:
    with Client(site.server.url) as client:
        client.put("a/report/1", b"x")
        client.put("b/x", b"x")

        def keys(path: str) -> list[str]:
            status, answer = site.ask("GET", f"search/{path}")
            assert status == 200, answer
            return [result["key"] for result in answer["results"]]

        assert keys("report") == ["a/report/1"]
        for number in range(2, 40):
            client.put(f"a/report/{number}", b"x")
            assert f"a/report/{number}" in keys(f"port/{number}")
        client.delete("a/report/7")
        assert keys("report/7") == []
        client.put("a/report/7", b"again")
        assert keys("report/7") == ["a/report/7"]
        client.put("gone", b"x", ttl=1)
        site.until(lambda: keys("gone") == [])
        assert keys("") == sorted(item.key for item in client.list_keys())
        _, answer = site.ask("GET", "search/b%2Fx")
        assert answer["results"][0]["url"] == f"{site.server.url}/get_key/b/x"
        assert client.get("b/x") == b"x"


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("a?eq=2020-01-31", "mm-dd-yyyy"),
        ("a?gt=13-01-2020", "mm-dd-yyyy"),
        ("a?lt=02-30-2020", "mm-dd-yyyy"),
        ("a?lt=01-01-2020&gt=01-02-2020", "lt is before gt"),
        ("a?lt=01-01-2020&lt=01-02-2020", "twice"),
        ("a?limit=0", "limit"),
        ("a?limt=3", "did you mean limit"),
        ("%0a", "control character"),
    ],
)
def test_a_search_that_cannot_be_meant(site: Site, query: str, sentence: str) -> None:
    status, answer = site.ask("GET", f"search/{query}")
    assert (status, answer["code"]) == (400, "invalid_parameter")
    assert sentence in answer["detail"]


def test_a_stop_waits_for_an_extension_as_for_every_request(site: Site) -> None:
    site.module("m", "import time\ndef execute(arguments): time.sleep(1000)")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(site.ask, "GET", "m")
        site.until(lambda: "pulzar_extension_calls 1" in metrics(site))
        assert site.server.terminate() == 0
        assert call.result()[0] == 504


def metrics(site: Site) -> str:
    return site.http.request("GET", f"{site.server.url}/metrics").data.decode()
