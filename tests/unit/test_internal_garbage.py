"""Garbage at every endpoint between machines: refused with a 4xx, and nothing is changed.

The real application over a real volume, and over a real master, called as the server calls it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pulzar.cluster import messages as m
from pulzar.cluster.remote import MasterLink, Network
from pulzar.disk import SystemDisk
from pulzar.extensions.slots import Extensions
from pulzar.http.agents import PATHS as AGENT_PATHS
from pulzar.http.application import Application
from pulzar.http.autodiscovery import PATHS as VOLUME_PATHS
from pulzar.http.master_app import Services, build_master_app
from pulzar.http.skynet import PATHS as MASTER_PATHS
from pulzar.http.volume_app import VolumeApp
from pulzar.jobs import messages as j
from pulzar.jobs.ledger import Kept
from pulzar.jobs.scripts import Scripts
from pulzar.jobs.system import JobSystem
from pulzar.testing import ManualClock
from pulzar.testing.cluster import KEY, LocalCluster
from pulzar.varidb.entry import Put
from pulzar.varidb.names import Names

ROUNDS = 150
TYPE = m.MEDIA_TYPE.encode()


class Answer(msgspec.Struct):
    status: int
    body: bytes


async def ask(
    app: Application, method: str, target: str, body: bytes, headers: dict[bytes, bytes]
) -> Answer:
    """One request, as Granian hands it over."""
    path, _, query = target.partition("?")
    messages: list[dict[str, Any]] = []
    given = list(headers.items())
    given.append((b"content-length", b"%d" % len(body)))
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode("latin-1", "replace"),
        "query_string": query.encode("latin-1", "replace"),
        "headers": given,
        "scheme": "http",
        "client": ("127.0.0.1", 1),
    }

    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not waiting:  # the client stays
            await asyncio.Event().wait()
        return waiting.pop()

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    start = messages[0]
    return Answer(start["status"], b"".join(one.get("body", b"") for one in messages[1:]))


def refused(answer: Answer, what: object) -> None:
    assert 400 <= answer.status < 500, (what, answer)
    problem = msgspec.json.decode(answer.body)
    assert problem["code"] not in ("internal", "bad_request"), (what, problem)
    assert len(problem["detail"]) > 10


def spoilt(content: bytes, rng: random.Random) -> bytes:
    """A message that is none any more, or is one with a value that cannot be meant."""
    how = rng.randrange(5)
    if how == 0:
        return rng.randbytes(rng.randrange(200))
    if how == 1:
        return content[: rng.randrange(len(content))]
    if how == 2:
        values = msgspec.msgpack.decode(content)
        at = rng.randrange(len(values))
        bad: list[Any] = [-1, None, "x" * 300, 1 << 63, [], {}, b"\xff" * 600, 3.5]
        values[at] = rng.choice([one for one in bad if type(one) is not type(values[at])])
        return msgspec.msgpack.encode(values)
    if how == 3:
        return msgspec.msgpack.encode({"epoch": 1})
    return content[:1] + rng.randbytes(len(content))


def new_record(**changed: Any) -> m.NewRecord:
    good = m.NewRecord(1, b"k", b"v", b"", 1 << 40, 1, 0)
    return msgspec.structs.replace(good, **changed)


BAD_RECORDS = [
    new_record(type=0),
    new_record(type=5),
    new_record(type=6),
    new_record(type=9),
    new_record(type=77),
    new_record(key=b""),
    new_record(key=b"\xff\x07"),
    new_record(key=b"\xfe" + b"a" * 32),
    new_record(key=b"k" * 481),
    new_record(key=b"\xc3"),
    new_record(version=0),
    new_record(version=-1),
    new_record(created_ms=-5),
    new_record(expires_s=1 << 50),
    new_record(value=bytes((1 << 20) + 1)),
    new_record(meta=b"{"),
    new_record(meta=b"x" * 5000),
    new_record(type=2, value=b"v"),
    new_record(type=3),
    new_record(type=8, key=b"k"),
]


@asynccontextmanager
async def volume_app(directory: Path) -> AsyncIterator[tuple[VolumeApp, Callable[[], object]]]:
    clock = ManualClock()
    async with LocalCluster(str(directory), clock, volumes=1) as cluster:
        await cluster.store.put(Put(b"k", b"value"))
        await cluster.stop_master()
        served = cluster.volumes["v0"]
        network = Network(KEY)
        app = VolumeApp(
            served,
            MasterLink(network, "http://127.0.0.1:1"),
            key=KEY,
            clock=clock,
            chunk_timeout_s=5,
        )

        def state() -> object:
            log, index = served.serving.volume.log, served.serving.volume.index
            return log.next_seq, index.count(), index.get(b"k"), served._promised

        yield app, state
        await network.close()
        await cluster.start_master()


def headers(**changed: bytes) -> dict[bytes, bytes]:
    good = {b"authorization": b"Bearer " + KEY.encode(), b"content-type": TYPE}
    return good | {name.replace("_", "-").encode(): value for name, value in changed.items()}


GOOD: dict[str, m.Message] = {
    "/autodiscovery/session": m.SessionWanted(9, 1, bytes(16)),
    "/autodiscovery/append": m.Append(9, 1, 0, [new_record()]),
    "/autodiscovery/fetch": m.Fetch([(b"k", 1)]),
    "/autodiscovery/pull": m.Pull("http://127.0.0.1:1", b"k", 1, 3, "a" * 32),
    "/skynet/upload": m.UploadWanted("0" * 32, 5, 1),
    "/skynet/commit": m.UploadDone(
        upload="a" * 32,
        key=b"k",
        size=3,
        volumes=[],
        content_type="",
        expires_s=0,
        replicas=0,
    ),
    "/skynet/heartbeat": m.Presence(
        protocol=1,
        id="0" * 32,
        instance="i",
        name="n",
        url="http://127.0.0.1:1",
        cluster="",
        generation=0,
        epoch=0,
        entries=0,
        opening=bytes(16),
        seq=1,
        total_bytes=1,
        used_bytes=1,
        room_bytes=1,
        now_ms=1,
    ),
}


def test_garbage_at_a_volume_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async def life() -> None:
        rng = random.Random(1)
        async with volume_app(tmp_path) as (app, state):
            await asyncio.sleep(0.3)  # the log's own checkpoint after 100 ms without a write
            before = state()
            for path, message in GOOD.items():
                if path not in VOLUME_PATHS:
                    continue
                for _ in range(ROUNDS):
                    body = spoilt(m.encode(message), rng)
                    refused(await ask(app, "POST", path, body, headers()), (path, body))
            for record in BAD_RECORDS:
                body = m.encode(m.Append(9, 1, 0, [record]))
                refused(await ask(app, "POST", "/autodiscovery/append", body, headers()), record)
            # What is well formed, but not of the session that there is.
            body = m.encode(GOOD["/autodiscovery/append"])
            stale = await ask(app, "POST", "/autodiscovery/append", body, headers())
            assert (stale.status, msgspec.json.decode(stale.body)["code"]) == (409, "stale_session")
            for target in BAD_TARGETS:
                refused(await ask(app, "GET", target, b"", headers()), target)
            assert state() == before

    asyncio.run(life())


BAD_TARGETS = [
    "/autodiscovery/log?after=zz&limit=1",
    "/autodiscovery/log?after=&limit=0",
    "/autodiscovery/log?after=&limit=99999999",
    "/autodiscovery/log?after=&limit=1&wait=-1",
    "/autodiscovery/log?limit=x",
    "/autodiscovery/log?after=&limit=1&other=1",
    f"/autodiscovery/log?after={'0' * 32}.1&limit=5",
    "/autodiscovery/snapshot?after=%FF&limit=1",
    "/autodiscovery/snapshot?after=YQ&limit=1",
    "/autodiscovery/digests?limit=1&limit=2",
    "/autodiscovery/hello?x=1",
    "/autodiscovery/alive",
    "/autodiscovery/alive?wait=61",
    "/autodiscovery/append",
    "/autodiscovery/nothing",
    "/autodiscovery/",
    "/get_key/k?version=1",
    "/get_key/k?version=" + "g" * 16,
]


def test_without_the_key_nothing_is_even_looked_at(tmp_path: Path) -> None:
    async def life() -> None:
        async with volume_app(tmp_path) as (app, state):
            before = state()
            for path, (methods, _) in VOLUME_PATHS.items():
                for wrong in (b"", b"Bearer ", b"Bearer " + b"0" * 64, KEY.encode()):
                    target = path.replace("{id}", "a" * 32)
                    given = headers(authorization=wrong)
                    answer = await ask(app, methods[0], target, b"\xc1", given)
                    code = msgspec.json.decode(answer.body)["code"]
                    assert (answer.status, code) == (403, "forbidden")
            typed = headers(content_type=b"application/json")
            answer = await ask(app, "POST", "/autodiscovery/append", b"{}", typed)
            assert answer.status == 415
            wrong_method = await ask(app, "DELETE", "/autodiscovery/append", b"", headers())
            assert wrong_method.status == 405
            assert state()[0:3] == before[0:3]  # type: ignore[index]

    asyncio.run(life())


def test_garbage_at_a_master_is_refused_and_nobody_joins(tmp_path: Path) -> None:
    async def life() -> None:
        rng = random.Random(2)
        clock = ManualClock()
        async with LocalCluster(str(tmp_path), clock, volumes=1) as cluster:
            app = master_app(cluster, clock, job_system(cluster, clock), tmp_path)
            before = cluster.store.master.list.members
            for path in MASTER_PATHS:
                for _ in range(ROUNDS):
                    body = spoilt(m.encode(GOOD[path]), rng)
                    refused(await ask(app, "POST", path, body, headers()), (path, body))
            for changed in BAD_PRESENCES:
                presence = msgspec.structs.replace(GOOD["/skynet/heartbeat"], **changed)
                body = m.encode(presence)
                refused(await ask(app, "POST", "/skynet/heartbeat", body, headers()), changed)
            assert cluster.store.master.list.members == before

    asyncio.run(life())


GOOD_WORDS: dict[str, Any] = {
    "/skynet/turn": j.Turn(
        agent="a",
        node="n",
        turn=2,
        wait_s=0.0,
        wants=2,
        free=1,
        jobs=[1],
    ),
    "/skynet/results": j.Done(
        "a",
        "n",
        [
            j.Result(
                job=1, attempt=1, event="succeed", started_ms=1, finished_ms=2, output="1", log=b"x"
            )
        ],
    ),
    "/skynet/word": j.Word(
        agent="a", node="n", slots=1, wait_s=0.0, running=[j.News(job=1, attempt=1, log=b"x")]
    ),
}
RESULT = GOOD_WORDS["/skynet/results"].results[0]
NEWS = GOOD_WORDS["/skynet/word"].running[0]
BAD_WORDS: list[tuple[str, dict[str, Any]]] = [
    ("/skynet/turn", {"agent": "a\nb"}),
    ("/skynet/turn", {"node": "n" * 300}),
    ("/skynet/turn", {"wants": 0}),
    ("/skynet/turn", {"wants": 1 << 20}),
    ("/skynet/turn", {"free": -1}),
    ("/skynet/turn", {"jobs": [0]}),
    ("/skynet/turn", {"jobs": [1, 2, 3]}),
    ("/skynet/turn", {"turn": 0}),
    ("/skynet/turn", {"wait_s": 1e9}),
    ("/skynet/turn", {"wait_s": float("nan")}),
    ("/skynet/results", {"agent": "a\nb"}),
    ("/skynet/results", {"results": [RESULT] * 65}),
    ("/skynet/results", {"results": [msgspec.structs.replace(RESULT, event="claim")]}),
    ("/skynet/results", {"results": [msgspec.structs.replace(RESULT, job=0)]}),
    ("/skynet/results", {"results": [msgspec.structs.replace(RESULT, output="{")]}),
    ("/skynet/results", {"results": [msgspec.structs.replace(RESULT, log=bytes(2 << 20))]}),
    ("/skynet/word", {"scheduler": 1 << 16}),
    ("/skynet/word", {"slots": -1}),
    ("/skynet/word", {"slots": 0}),
    ("/skynet/word", {"wait_s": -1.0}),
    ("/skynet/word", {"before": [j.Before("a\nb", [])]}),
    ("/skynet/word", {"before": [j.Before("a", [])] * 101}),
    ("/skynet/word", {"running": [msgspec.structs.replace(NEWS, offset=-1)]}),
    ("/skynet/word", {"running": [msgspec.structs.replace(NEWS, progress=2.0)]}),
    ("/skynet/word", {"running": [msgspec.structs.replace(NEWS, log=bytes(2 << 20))]}),
]


def test_garbage_of_agents_is_refused_and_no_job_is_changed(tmp_path: Path) -> None:
    async def life() -> None:
        rng = random.Random(3)
        clock = ManualClock()
        async with LocalCluster(str(tmp_path), clock, volumes=1) as cluster:
            system = job_system(cluster, clock)
            app = master_app(cluster, clock, system, tmp_path)
            system.start()
            await cluster.until(lambda: system._is_loaded)
            (tmp_path / "jobs" / "d").mkdir(parents=True)
            (tmp_path / "jobs" / "d" / "s.py").write_text("")
            job = await system.cancel((await system.launch("d", "s", b"", "")).id)
            for path, good in GOOD_WORDS.items():
                for _ in range(ROUNDS):
                    body = spoilt(m.encode(good), rng)
                    answer = await ask(app, "POST", path, body, headers())
                    assert answer.status < 500, (path, body)
            for path, changed in BAD_WORDS:
                body = m.encode(msgspec.structs.replace(GOOD_WORDS[path], **changed))
                refused(await ask(app, "POST", path, body, headers()), (path, changed))
            for path in ("/skynet/scripts/", "/skynet/scripts/../x", "/skynet/scripts/" + "0" * 64):
                refused(await ask(app, "GET", path, b"", headers()), path)
            assert system.ledger.get(job.id) == job
            for path in AGENT_PATHS:
                answer = await ask(app, AGENT_PATHS[path][0][0], path, b"", {})
                assert answer.status == 403
            await system.close()

    asyncio.run(life())


def job_system(cluster: LocalCluster, clock: ManualClock) -> JobSystem:
    """A job system over a cluster."""
    return JobSystem(
        cluster.store,
        Scripts(f"{cluster.directory}/jobs"),
        clock=clock,
        holders=lambda key: cluster.store.holders(key.encode()),
        draw=lambda: 0.0,
        kept=Kept(10, 10),
    )


def master_app(
    cluster: LocalCluster, clock: ManualClock, system: JobSystem, directory: Path
) -> Application:
    """The application of a master, without extensions."""
    extensions = Extensions(
        str(directory / "none"), slots=0, timeout_s=1, memory_bytes=0, work=str(directory / "work")
    )
    disk, store = SystemDisk(), cluster.store
    names = Names(str(directory / "names"), store.history, store.feed, disk=disk)
    services = Services(system, extensions, names)
    return build_master_app(store, KEY, clock=clock, disk=disk, services=services)


BAD_PRESENCES: list[dict[str, Any]] = [
    {"damaged": [(b"", 1)]},
    {"damaged": [(b"k", -1)]},
    {"damaged": [(b"k", 1)] * 101},
    {"protocol": 0},
    {"protocol": 2},
    {"id": ""},
    {"id": "0" * 31},
    {"id": "g" * 32},
    {"url": ""},
    {"url": "ftp://x"},
    {"name": "n" * 300},
    {"name": "a\nb"},
    {"cluster": "f" * 32},
    {"entries": 5},
    {"seq": -1},
    {"total_bytes": -(1 << 40)},
    {"epoch": 1 << 24},
    {"opening": b"x"},
]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"volume": 5}', b'{"volume": "a b"}'])
def test_garbage_at_restore_is_refused(tmp_path: Path, content: bytes) -> None:
    async def life() -> None:
        clock = ManualClock()
        async with LocalCluster(str(tmp_path), clock, volumes=1) as cluster:
            app = master_app(cluster, clock, job_system(cluster, clock), tmp_path)
            refused(await ask(app, "POST", "/admin/restore", content, {}), content)

    asyncio.run(life())
