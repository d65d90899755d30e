"""The life of one volume as a script: everything that writes to the disk happens in it.

Tests run it once as it is, and then again and again, each time with something going wrong at one
place. It is the same at each run, I/O by I/O, as long as nothing goes wrong.
"""

from collections.abc import Callable

from tests.model.engine import Engine

Step = Callable[[Engine], object]

GRACE_MS = 100_000


def _write(engine: Engine) -> None:
    engine.write([(b"kept", b"first"), (b"gone", b"x" * 300), (b"changed", b"old")])
    engine.write([(b"changed", b"new"), (b"gone", None)])


def _write_blob(engine: Engine) -> None:
    engine.write([(b"blob", b"in a file")], blob=True)


def _replace_blob(engine: Engine) -> None:
    engine.write([(b"blob", b"in another file")], blob=True)


def _fill(engine: Engine) -> None:
    for number in range(12):
        engine.write([(b"filler", b"%d" % number * 400), (b"n%d" % number, b"%d" % number)])


def _roll(engine: Engine) -> None:
    engine.volume.roll(now_ms=engine.now_ms)


def _delete(engine: Engine) -> None:
    engine.write([(b"n3", None), (b"n4", None), (b"kept too", b"1")])


def _remove_retired(engine: Engine) -> None:
    engine.now_ms += GRACE_MS + 1
    engine.volume.remove_retired(now_ms=engine.now_ms)


STEPS: tuple[Step, ...] = (
    Engine.open,
    _write,
    _write_blob,
    _fill,
    _roll,
    Engine.seal,
    _delete,
    _replace_blob,
    Engine.compact,
    Engine.restart,
    _remove_retired,
    Engine.compact,
    _remove_retired,
    Engine.compact,
    _write,
    Engine.restart,
)
"""Two compactions and the removal of their inputs: so that deletes are purged, and a blob goes."""


def live(engine: Engine) -> None:
    """The whole life, step by step."""
    for step in STEPS:
        step(engine)
