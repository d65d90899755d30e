"""Processes of a real server that die, alone and together."""

import time
from collections.abc import Callable

import pytest
import urllib3

from pulzar.client.process import Server
from pulzar.testing.linearizability import Outcome, check
from pulzar.testing.recorder import Recorder, value_of

pytestmark = pytest.mark.slow

ALL_END_S = 2.0  # it is to take one; this machine may be busy
KILLS = 6
VALUE = value_of("kept.5000000")


def serving(server: Server) -> int:
    return server.processes()[0].pid


def background(server: Server) -> int:
    processes = server.processes()
    assert len(processes) == 2, processes
    return processes[1].pid


def kill_alone(server: Server, pid: int) -> None:
    """SIGKILL to one process; all others must be gone soon."""
    victim = next(process for process in server.processes() if process.pid == pid)
    started = time.monotonic()
    survivors = server.kill_one(victim)
    elapsed_s = time.monotonic() - started
    assert survivors == []
    assert elapsed_s < ALL_END_S


@pytest.mark.parametrize("victim", [serving, background])
def test_all_end_with_any_one_and_a_restart_has_everything(
    server: Server, http: urllib3.PoolManager, victim: Callable[[Server], int]
) -> None:
    for key, value in [("small", b"value"), ("large", VALUE), ("gone", b"value")]:
        assert http.request("PUT", f"{server.url}/add_key/{key}", body=value).status == 201
    assert http.request("DELETE", f"{server.url}/delete_key/gone").status == 200
    kill_alone(server, victim(server))
    server.start()
    assert http.request("GET", f"{server.url}/get_key/small").data == b"value"
    assert http.request("GET", f"{server.url}/get_key/large").data == VALUE
    assert http.request("GET", f"{server.url}/get_key/gone").status == 404


@pytest.mark.parametrize("value_bytes", [(16, 900), (16, 4000, 1_500_000)], ids=["small", "large"])
def test_one_history_goes_on_across_kills(server: Server, value_bytes: tuple[int, ...]) -> None:
    recorder = Recorder(server.url, keys=["a", "b"], value_bytes=value_bytes, processes=4)
    with recorder:
        for number in range(KILLS):
            recorder.wait_for_answers(60)
            kind = number % 3
            if kind == 0:
                server.kill()
            else:
                kill_alone(server, serving(server) if kind == 1 else background(server))
            server.start()
            recorder.url = server.url
        recorder.wait_for_answers(60)
    assert recorder.surprises == []
    check(recorder.history)
    unknown = [o for o in recorder.history if o.outcome is Outcome.UNKNOWN]
    assert unknown, "no kill met an operation under way"
