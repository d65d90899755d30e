"""A real server that is asked to stop: idle, starting, with requests open, and asked again."""

import os
import signal
import socket
import time
from urllib.parse import urlsplit

import pytest
import urllib3

from pulzar.client.process import Server
from pulzar.limits import SHUTDOWN_GRACE_S
from pulzar.testing.linearizability import check
from pulzar.testing.recorder import Recorder, value_of
from tests.crash.wire import PAUSE, Wire, chunked, get, put, request, value, wait_until

pytestmark = pytest.mark.slow

LARGE = value_of("large.5000000")


def ask_to_stop(server: Server, number: signal.Signals) -> None:
    """Signal the first process, and return when it has heard: it takes no connection any more."""
    server.processes()[0].send_signal(number)
    address = urlsplit(server.url)

    def is_deaf() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((address.hostname, address.port)) != 0

    wait_until(is_deaf, "the server has closed its port")


def finish(server: Server) -> tuple[int, float]:
    """SIGTERM, once more where it was asked before; exit code, and how long it took."""
    started = time.monotonic()
    return server.terminate(), time.monotonic() - started


def test_sigterm_under_load_loses_nothing(server: Server) -> None:
    recorder = Recorder(server.url, keys=["a", "b"], value_bytes=(16, 4000), processes=4)
    with recorder:
        for _ in range(3):
            recorder.wait_for_answers(60)
            assert server.terminate() == 0
            server.start()
            recorder.url = server.url
        recorder.wait_for_answers(60)
    assert recorder.surprises == []
    check(recorder.history)


def test_idle_and_half_asked_connections_do_not_hold_up_a_stop(server: Server) -> None:
    with Wire(server.url), Wire(server.url) as used, Wire(server.url) as half:
        used.send(request("GET", "/healthz"))
        assert used.answer().status == 200
        half.send(get("some/key")[:20])
        code, took_s = finish(server)
    assert code == 0
    assert took_s < 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_is_a_clean_stop(
    server: Server, number: signal.Signals
) -> None:
    large = put("large", LARGE)
    with Wire(server.url) as wire:
        wire.send(large[:3_000_000])
        os.killpg(server.pid, number)
        wire.send(large[3_000_000:])
        assert wire.answer().status == 201
    assert finish(server)[0] == 0
    server.start()
    assert value(server.url, "large") == LARGE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_under_way_are_finished(server: Server, number: signal.Signals) -> None:
    large = put("large", LARGE)
    small = put("small", b"x" * 1000)
    streamed = request("PUT", "/add_key/streamed", "Transfer-Encoding: chunked")
    body = chunked(LARGE, 70_000)
    with Wire(server.url) as one, Wire(server.url) as two, Wire(server.url) as three:
        one.send(large[:3_000_000])
        two.send(small[:-500])
        three.send(streamed + body[:2_000_000])
        ask_to_stop(server, number)
        one.send(large[3_000_000:])
        two.send(small[-500:])
        three.send(body[2_000_000:])
        assert [wire.answer().status for wire in (one, two, three)] == [201, 201, 201]
    assert finish(server)[0] == 0
    server.start()
    assert value(server.url, "small") == b"x" * 1000
    assert value(server.url, "large") == LARGE
    assert value(server.url, "streamed") == LARGE


@pytest.mark.timeout(60)
def test_stuck_requests_hold_up_a_stop_no_longer_than_the_grace(
    server: Server, http: urllib3.PoolManager
) -> None:
    big = value_of("big.50000000")
    assert http.request("PUT", f"{server.url}/add_key/big", body=big).status == 201
    with (
        Wire(server.url) as small,
        Wire(server.url) as large,
        Wire(server.url) as streamed,
        Wire(server.url) as download,
    ):
        small.send(put("small", b"x" * 500, length=1000))
        large.send(put("large", LARGE[:3_000_000], length=5_000_000))
        streamed.send(request("PUT", "/add_key/streamed", "Transfer-Encoding: chunked"))
        streamed.send(chunked(LARGE, 70_000)[:2_000_000])
        download.send(get("big"))
        assert download.answer_head()[0] == 200
        code, took_s = finish(server)
        assert code == 0
        assert SHUTDOWN_GRACE_S <= took_s < SHUTDOWN_GRACE_S + 3
        for wire in (small, large, streamed):
            answer = wire.answer()
            assert answer.status == 503
            assert b"not_ready" in answer.body
            assert b"nothing was stored" in answer.body
        with pytest.raises(ConnectionError):
            download.read(len(big))
    said = server.log_tail()
    assert "ERROR" not in said
    assert said.endswith("stopped")
    server.start()
    assert value(server.url, "big") == big
    assert [value(server.url, key) for key in ("small", "large", "streamed")] == [None] * 3


def test_a_second_sigterm_is_patient_too(server: Server) -> None:
    whole = put("key", b"x" * 1000)
    with Wire(server.url) as wire:
        wire.send(whole[:-500])
        ask_to_stop(server, signal.SIGTERM)
        server.processes()[0].send_signal(signal.SIGTERM)
        wire.send(whole[-500:])
        assert wire.answer().status == 201
    assert finish(server)[0] == 0
    server.start()
    assert value(server.url, "key") == b"x" * 1000


def test_a_second_ctrl_c_ends_it_at_once_and_loses_nothing(server: Server) -> None:
    with Wire(server.url) as wire:
        wire.send(put("done", b"value"))
        assert wire.answer().status == 201
        wire.send(put("half", b"x" * 500, length=1000))
        ask_to_stop(server, signal.SIGINT)
        started = time.monotonic()
        server.processes()[0].send_signal(signal.SIGINT)
        wait_until(lambda: server.processes() == [], "all processes have ended")
        assert time.monotonic() - started < SHUTDOWN_GRACE_S / 2
    server.start()
    assert value(server.url, "done") == b"value"
    assert value(server.url, "half") is None


def test_sigkill_in_the_middle_of_a_stop_loses_nothing(server: Server) -> None:
    with Wire(server.url) as wire:
        wire.send(put("done", b"value"))
        assert wire.answer().status == 201
        wire.send(put("half", b"x" * 500, length=1000))
        ask_to_stop(server, signal.SIGTERM)
        server.kill()
    server.start()
    assert value(server.url, "done") == b"value"
    assert value(server.url, "half") is None


def test_sigterm_at_any_moment_of_a_start_is_a_clean_end(server: Server) -> None:
    with Wire(server.url) as wire:
        wire.send(put("key", b"value"))
        assert wire.answer().status == 201
    for moment in range(6):
        server.launch()
        # From the first line of its log on it has a handler, but there is no port to close yet.
        wait_until(lambda: "data in" in server.log_tail(), "it has begun")
        PAUSE.wait(moment * 0.01)
        assert server.terminate() == 0
        assert "Traceback" not in server.log_tail()
    server.start()
    assert value(server.url, "key") == b"value"
