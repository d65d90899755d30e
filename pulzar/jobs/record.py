"""A job as VariDB keeps it, under keys that users cannot write.

    0x00 "jobs/" id (16 hex digits)      Stored, as JSON; what a job is and, when small, its output
    0x00 "output/" id                    an output over OUTPUT_INLINE_BYTES_MAX: JSON
    0x00 "log/" id                       what its last attempt wrote to stdout and stderr
    0x00 "scripts/" hash                 the script's directory as it was at the launch: a tar file
    0x00 "last-id"                       the last id that was used, where nothing has it any more

A field may be added, with a default; none may be moved to another meaning.
"""

import msgspec

from pulzar.errors import Damage
from pulzar.jobs.states import State

JOBS_PREFIX = b"\0jobs/"
LAST_ID_KEY = b"\0last-id"


def job_key(number: int) -> bytes:
    """The key of a job."""
    return b"%b%016x" % (JOBS_PREFIX, number)


def output_key(number: int) -> bytes:
    """The key of a large output."""
    return b"\0output/%016x" % number


def log_key(number: int) -> bytes:
    """The key of a log."""
    return b"\0log/%016x" % number


def scripts_key(digest: str) -> bytes:
    """The key of a directory of scripts."""
    return b"\0scripts/%b" % digest.encode()


class Policy(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How a job is to be run. `retries` after a failure, `timeout_s` 0 for none, a larger
    `priority` goes first, `on_lost` retry or fail; `data` is a key, near which it is to run, and
    `requires_data` whether nowhere else."""

    retries: int = 0
    timeout_s: float = 0.0
    priority: int = 0
    on_lost: str = "fail"
    data: str = ""
    requires_data: bool = False


class Place(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Who has an attempt: an agent, which is on a node, and the turn for which it was given."""

    node: str = ""
    agent: str = ""
    turn: int = 0


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job. Times in milliseconds since 1970, 0 for not yet. `arguments` is a JSON object.

    `attempt` counts from 1; `failures` are those that count against `retries`. `reason` says why a
    job waits, `error` in a line why it failed. `token` is the client's Idempotency-Key, `parent`
    the map (maps.py) that the job belongs to.
    """

    id: int
    directory: str
    script: str
    digest: str
    arguments: str
    created_ms: int
    policy: Policy = Policy()
    token: str = ""
    parent: int = 0
    state: State = State.PENDING
    attempt: int = 0
    failures: int = 0
    place: Place = Place()
    not_before_ms: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    error: str = ""


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands under a job's key. `output` is JSON; `traceback` text."""

    job: Job
    output: str = ""
    traceback: str = ""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Stored)


def encode_stored(stored: Stored) -> bytes:
    """The bytes of a record."""
    return _encoder.encode(stored)


def decode_stored(content: bytes) -> Stored:
    """The record in some bytes. Raises Damage."""
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, ValueError) as error:
        raise Damage(f"the record of a job cannot be read: {error}") from None
