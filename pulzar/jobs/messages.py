"""The messages between an agent and the master, and what is in them. No I/O.

    agent -> master   POST /skynet/turn      Turn -> Given        slots are free
                      POST /skynet/results   Done -> Recorded     how attempts ended
                      POST /skynet/word      Word -> Heard        what runs, and what was written
                      GET  /skynet/scripts/{hash}                 a tar file

An agent with short jobs asks for more than it has slots, and gives back what waits long there.

An agent asks with a turn number until it has an answer; no other turn has that number. So the
master gives the same orders again to the same turn, and an order starts once. As in
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


class Done(Message, frozen=True):
    """How some attempts of an agent ended."""

    agent: str
    node: str
    results: list[Result]


class Recorded(Message, frozen=True):
    """The results are durable, as far as somebody still waited for them."""


class Turn(Message, frozen=True, kw_only=True):
    """An agent, of which `free` slots have nothing to do, waits up to `wait_s` for up to `wants`
    orders; for those of some jobs only, where an engine has given it these."""

    agent: str
    node: str
    turn: int
    wait_s: float
    wants: int
    free: int
    jobs: list[int] = msgspec.field(default_factory=list)


class Order(Message, frozen=True, kw_only=True):
    """An attempt that an agent is to run. `arguments` is a JSON object; `timeout_s` 0 for none."""

    job: int
    attempt: int
    directory: str
    script: str
    digest: str
    arguments: str
    timeout_s: float


class Given(Message, frozen=True):
    """The answer to a turn; no orders when there is nothing to do."""

    orders: list[Order] = msgspec.field(default_factory=list)


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
    `before` are agents in whose place it is; `scheduler` is the port of the one that it has joined,
    or 0."""

    agent: str
    node: str
    slots: int
    wait_s: float
    running: list[News]
    before: list[Before] = msgspec.field(default_factory=list)
    scheduler: int = 0


class Heard(Message, frozen=True):
    """What the agent is to end: jobs and attempts. `scheduler` is the port of the one that it is to
    join, on the master's host; 0 for none."""

    cancel: list[tuple[int, int]]
    scheduler: int = 0
