"""Everything that can be killed is killed, what can be cut is cut; what clients saw is checked.

The history of each run must be linearizable, with conditions and deletes; at the end every key has
its copies again, and is read back once more.
"""

import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import urllib3

from pulzar.clock import SystemClock
from pulzar.testing.islands import Islands, available
from pulzar.testing.linearizability import Kind, Operation, Outcome, check
from pulzar.testing.machines import Machine, Machines
from pulzar.testing.recorder import Recorder, label_of
from tests.cluster.conftest import MakeMachines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEYS = [f"k{number}" for number in range(24)]
SECONDS = 12.0
VALUE_BYTES = (16, 2000, 30_000)


def recorded(
    machines: Machines, http: urllib3.PoolManager, seed: int, disturb: Callable[[], None]
) -> list[Operation]:
    """What clients saw while the cluster was disturbed, and a last read of every key."""
    sys.stdout.write(f"seed {seed}\n")
    recorder = Recorder(
        machines.master.url, keys=KEYS, processes=6, seed=seed, value_bytes=VALUE_BYTES
    )
    with recorder:
        recorder.wait_for_answers(100)
        disturb()
        recorder.wait_for_answers(100, timeout_s=60)
    assert recorder.surprises == []
    machines.wait_ready()
    machines.wait_redundant(2, 60)
    for key in KEYS:
        invoked_s = recorder.clock.monotonic_s()
        answer = http.request("GET", f"{machines.master.url}/get_key/{key}")
        assert answer.status in (200, 404), answer.data
        found = answer.status == 200
        recorder.record(
            Operation(
                process=99,
                kind=Kind.GET,
                key=key,
                invoked_s=invoked_s,
                returned_s=recorder.clock.monotonic_s(),
                outcome=Outcome.OK if found else Outcome.MISSING,
                value=label_of(answer.data) if found else None,
                version=int(answer.headers["ETag"].strip('"'), 16) if found else None,
            )
        )
    check(recorder.history)
    return recorder.history


class Trouble:
    """Does something to the cluster again and again for a while."""

    def __init__(self, machines: Machines, seed: int) -> None:
        self.machines = machines
        self.random = random.Random(seed)
        self._pause = threading.Event()

    def rest(self, least_s: float, most_s: float) -> None:
        self._pause.wait(self.random.uniform(least_s, most_s))

    def for_a_while(self, work: Callable[[], None]) -> Callable[[], None]:
        def disturb() -> None:
            clock = SystemClock()
            end = clock.monotonic_s() + SECONDS
            while clock.monotonic_s() < end:
                work()

        return disturb

    def start(self, machine: Machine) -> None:
        if machine is self.machines.master:
            self.machines.start_master()
        else:
            machine.start()

    def kill_one(self) -> None:
        victim = self.random.choice([self.machines.master, *self.machines.volumes])
        self.rest(0.2, 0.8)
        victim.kill()
        self.rest(0, 0.5)
        self.start(victim)

    def kill_master(self) -> None:
        self.rest(0.2, 0.8)
        self.machines.master.kill()
        if self.random.random() < 0.5:
            self.machines.master.wipe()
        self.machines.start_master()
        self.machines.wait_ready()

    def hang_one(self) -> None:
        victim = self.random.choice([self.machines.master, *self.machines.volumes])
        victim.signal(signal.SIGSTOP)
        self.rest(0.5, 7)
        victim.signal(signal.SIGCONT)
        self.rest(0.2, 1)


@pytest.fixture
def seed() -> int:
    return random.SystemRandom().randrange(1 << 32)


@pytest.mark.parametrize("trouble", ["kill_one", "kill_master", "hang_one"])
def test_the_history_is_linearizable_whatever_ends_or_hangs(
    make_machines: MakeMachines, http: urllib3.PoolManager, seed: int, trouble: str
) -> None:
    machines = make_machines(volumes=3, replicas=2, volume="segment = 2MiB\n")
    work = Trouble(machines, seed)
    history = recorded(machines, http, seed, work.for_a_while(getattr(work, trouble)))
    assert len(history) > 500


@pytest.fixture
def islands() -> Iterator[Islands]:
    if not available():
        pytest.skip("needs root and iproute2, to make networks")
    with Islands(["master", "v0", "v1", "v2"]) as made:
        yield made


@pytest.mark.parametrize("pair", [("master", "v1"), ("v0", "v1")], ids="-".join)
def test_the_history_is_linearizable_while_the_network_is_cut(
    islands: Islands,
    http: urllib3.PoolManager,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    pair: tuple[str, str],
) -> None:
    directory = str(tmp_path_factory.mktemp("cut"))
    with Machines(directory, volumes=3, replicas=2, islands=islands) as machines:
        work = Trouble(machines, seed)

        def cut_and_heal() -> None:
            islands.cut(*pair)
            work.rest(0.5, 8)
            islands.heal(*pair)
            work.rest(0.2, 2)

        history = recorded(machines, http, seed, work.for_a_while(cut_and_heal))
        assert len(history) > 500
