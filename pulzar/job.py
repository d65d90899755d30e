"""What a script knows of the job that it is, and what it may ask for.

from pulzar import job

def execute(arguments):
    job.log("begun")
    with open(job.open("data/input.csv"), "rb") as file:
        ...
    job.progress(3, 10, "three of ten files")
    job.put("data/output.csv", result)
    return {"lines": 10}
"""

import os
import sys
import tempfile

from pulzar.client.sync import Client
from pulzar.errors import UsageError
from pulzar.jobs import child


def __getattr__(name: str) -> int:
    """`job.id` and `job.attempt`: which job this is, and the how manieth time it is tried."""
    if name == "id":
        return _attempt().job
    if name == "attempt":
        return _attempt().attempt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def log(text: str) -> None:
    """Write a line to the job's log, as print does."""
    sys.stdout.write(f"{text}\n")


def progress(done: float, total: float = 1.0, note: str = "") -> None:
    """Say how far the job is: so much of so much, and a few words if you like."""
    share = min(max(done / total, 0.0), 1.0) if total else 0.0
    _attempt().tell(share, note)


def open(key: str) -> str:  # noqa: A001 - job.open is what a script's author would look for
    """The path of a file with a key's value; it is there until the job ends. Raises PulzarError."""
    attempt = _attempt()
    handle, path = tempfile.mkstemp(dir=attempt.work)
    with os.fdopen(handle, "wb") as file, client() as store, store.open(key) as value:
        for chunk in value:
            file.write(chunk)
    return path


def put(key: str, value: bytes | str) -> None:
    """Give a key a value. It is durable when this returns. Raises PulzarError."""
    with client() as store:
        store.put(key, value.encode() if isinstance(value, str) else value)


def client() -> Client:
    """A client of the store, for everything else: listing, deleting, conditions. Use `with`."""
    return Client(_attempt().master)


def _attempt() -> child.Attempt:
    if child.current is None:
        raise UsageError("this is no job: launch the script with `pulzar job launch`")
    return child.current
