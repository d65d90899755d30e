"""Several clients on one key of a real server: what each was answered is one history."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import urllib3

from pulzar.client.process import Server
from pulzar.testing.linearizability import Outcome, check
from pulzar.testing.recorder import Recorder

pytestmark = pytest.mark.slow

WRITERS = 6


@pytest.mark.parametrize(
    ("value_bytes", "answers"),
    [((16,), 2500), ((16, 2000, 70_000), 1000), ((16, 1_048_577, 3_000_000), 150)],
    ids=["inline", "in segments", "blobs"],
)
def test_the_history_of_one_key_is_linearizable(
    server: Server, value_bytes: tuple[int, ...], answers: int
) -> None:
    recorder = Recorder(server.url, keys=["one"], processes=WRITERS, value_bytes=value_bytes)
    with recorder:
        recorder.wait_for_answers(answers)
    assert recorder.surprises == []
    check(recorder.history)
    outcomes = {operation.outcome for operation in recorder.history}
    assert outcomes == {Outcome.OK, Outcome.MISSING, Outcome.REFUSED}


def test_the_history_is_linearizable_while_segments_are_compacted(
    server: Server, http: urllib3.PoolManager
) -> None:
    recorder = Recorder(server.url, keys=["a", "b", "c"], value_bytes=(16, 5000))
    segments = 0
    with recorder:
        for _ in range(8):
            recorder.wait_for_answers(100)
            answer = http.request("POST", f"{server.url}/admin/compact")
            assert answer.status == 200, answer.data
            segments += answer.json()["segments"]
    assert segments > 0, "nothing was compacted"
    assert recorder.surprises == []
    check(recorder.history)


def test_of_several_who_create_one_key_one_does(server: Server, http: urllib3.PoolManager) -> None:
    together = Barrier(WRITERS)

    def create(writer: int, key: str) -> int:
        together.wait()
        url = f"{server.url}/add_key/{key}"
        return http.request(
            "PUT", url, body=f"{writer}".encode(), headers={"If-None-Match": "*"}
        ).status

    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(20):
            key = f"created-{number}"
            answers = list(pool.map(create, range(WRITERS), [key] * WRITERS))
            assert sorted(answers) == [201] + [412] * (WRITERS - 1)
            value = http.request("GET", f"{server.url}/get_key/{key}").data
            assert int(value) == answers.index(201)


def test_a_counter_loses_no_increment(server: Server, http: urllib3.PoolManager) -> None:
    url = f"{server.url}/add_key/counter"
    assert http.request("PUT", url, body=b"0").status == 201

    def increment(times: int) -> None:
        while times:
            now = http.request("GET", f"{server.url}/get_key/counter")
            body = str(int(now.data) + 1).encode()
            put = http.request("PUT", url, body=body, headers={"If-Match": now.headers["ETag"]})
            assert put.status in (200, 412)
            times -= put.status == 200

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(increment, [40] * WRITERS))
    assert http.request("GET", f"{server.url}/get_key/counter").data == b"%d" % (40 * WRITERS)
