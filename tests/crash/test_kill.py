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


def kill_everything(server: Server) -> None:
    server.kill()


def kill_serving(server: Server) -> None:
    kill_alone(server, 0)


def kill_background(server: Server) -> None:
    kill_alone(server, 1)


def kill_alone(server: Server, number: int) -> None:
    """SIGKILL to one process; the other must be gone soon."""
    processes = server.processes()
    assert len(processes) == 2, processes
    started = time.monotonic()
    assert server.kill_one(processes[number]) == []
    assert time.monotonic() - started < ALL_END_S


KINDS = (kill_everything, kill_serving, kill_background)


@pytest.mark.parametrize("kill", KINDS)
def test_all_end_with_any_one_and_a_restart_has_everything(
    server: Server, http: urllib3.PoolManager, kill: Callable[[Server], None]
) -> None:
    for key, value in [("small", b"value"), ("large", VALUE), ("gone", b"value")]:
        assert http.request("PUT", f"{server.url}/add_key/{key}", body=value).status == 201
    assert http.request("DELETE", f"{server.url}/delete_key/gone").status == 200
    kill(server)
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
            KINDS[number % len(KINDS)](server)
            server.start()
            recorder.url = server.url
        recorder.wait_for_answers(60)
    assert recorder.surprises == []
    check(recorder.history)
    unknown = [o for o in recorder.history if o.outcome is Outcome.UNKNOWN]
    assert unknown, "no kill met an operation under way"
