"""Every single I/O of a volume's life, failed: an error, a full disk, a half-done write.

After the error nothing acknowledged is lost and no wrong byte is read, neither by the process that
met it nor by the next one; and a log that may have lost its tail takes no more writes and says why.
"""

import errno

import pytest

from pulzar.errors import PulzarError, WritesStopped
from pulzar.testing import Fault, FaultPlan
from tests.model.engine import Engine
from tests.model.life import STEPS, live

SEED = 21
FAULTS = {
    "EIO": (errno.EIO, False, False),
    "half of it, then EIO": (errno.EIO, True, False),
    "ENOSPC": (errno.ENOSPC, False, False),
    "half of it, then ENOSPC from now on": (errno.ENOSPC, True, True),
}
PARTS = 4


def operations() -> int:
    """How many I/Os a life has."""
    engine = Engine(SEED, opened=False)
    live(engine)
    return engine.disk.operations


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_when_an_operation_fails_with(fault: str, part: int) -> None:
    error, short, lasting = FAULTS[fault]
    total = operations()
    assert total > 200
    for nth in range(1 + part, total + 1, PARTS):
        plan = FaultPlan(Fault(nth=nth, error=error, short=short, lasting=lasting))
        live_with(plan, power=nth % 2 == 0)
        assert plan.fired


def live_with(plan: FaultPlan, *, power: bool) -> None:
    """One life in which something fails; the volume is opened again after the first error."""
    engine = Engine(SEED, opened=False)
    engine.disk.faults = plan
    for step in STEPS:
        try:
            step(engine)
        except (OSError, PulzarError):
            engine.disk.faults = None
            if hasattr(engine, "volume"):
                outlive(engine)
            engine.crash(power=power)
            engine.check()
    engine.disk.faults = None
    engine.crash(power=True)
    engine.check()
    engine.check_rebuild()


def outlive(engine: Engine) -> None:
    """The process that met the error goes on: it reads the truth, and writes all or nothing."""
    engine.check(settled=False)
    reason = engine.volume.log.failed
    if reason is None:
        engine.write([(b"after", b"the error")])
    else:
        with pytest.raises(WritesStopped) as stopped:
            engine.write([(b"after", b"the error")])
        assert reason in str(stopped.value)
    engine.check(settled=False)
