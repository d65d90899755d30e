"""The messages between an agent and the master, and what is in them. No I/O.

    agent -> master   POST /skynet/turn      Turn -> Given      a free slot, and what it did before
                      POST /skynet/word      Word -> Heard      what runs, and what was written
                      GET  /skynet/scripts/{hash}               a tar file

Two turns of one slot may be on their way: a slot with short jobs asks for the next one while it
has one, and gives it back where that takes long. Turns of slot n have the numbers 2n and 2n + 1.

A slot asks with a turn number until it has an answer; the number goes up with each answer. So the
master gives the same order again to the same turn, and an order starts once. As in
cluster/messages.py: one msgpack array per message; fields are only added, at the end.
"""

import msgspec

from pulzar.cluster.messages import Message


class Result(Message, frozen=True, kw_only=True):
    """How an attempt ended. `event` is one of states.Event. `output` is JSON, of a success; `error`
    is one line, and `log` what it wrote, of which `log_dropped` bytes more are not kept."""

    job: int
    attempt: int
    event: str
    started_ms: int
    finished_ms: int
    output: str = ""
    error: str = ""
    traceback: str = ""
    log: bytes = b""
    log_dropped: int = 0


class Turn(Message, frozen=True, kw_only=True):
    """A slot of an agent is free. It waits up to `wait_s` for an order."""

    agent: str
    node: str
    slot: int
    turn: int
    wait_s: float
    result: Result | None = None


class Order(Message, frozen=True, kw_only=True):
    """An attempt that a slot is to run. `arguments` is a JSON object; `timeout_s` 0 for none."""

    job: int
    attempt: int
    directory: str
    script: str
    digest: str
    arguments: str
    timeout_s: float


class Given(Message, frozen=True):
    """The answer to a turn; no order when there is nothing to do."""

    order: Order | None = None


class News(Message, frozen=True, kw_only=True):
    """Of one attempt that runs: the end of its log from `offset` on, and how far it says it is,
    from 0 to 1, or -1."""

    job: int
    attempt: int
    offset: int = 0
    log: bytes = b""
    progress: float = -1.0
    note: str = ""


class Before(Message, frozen=True):
    """What an agent that was on this node before had begun: jobs and attempts."""

    agent: str
    begun: list[tuple[int, int]]


class Word(Message, frozen=True, kw_only=True):
    """An agent is there, with so many slots; what it runs. It waits up to `wait_s` for `Heard`.
    `before` are agents in whose place it is."""

    agent: str
    node: str
    slots: int
    wait_s: float
    running: list[News]
    before: list[Before] = msgspec.field(default_factory=list)


class Heard(Message, frozen=True):
    """What the agent is to end: jobs and attempts."""

    cancel: list[tuple[int, int]]
