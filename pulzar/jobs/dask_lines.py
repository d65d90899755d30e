"""What the master and the process of its scheduler say to each other. No I/O."""

import msgspec


class Begin(msgspec.Struct, frozen=True):
    """The first line: the cluster's key (hex), where to listen, what to log."""

    key: str
    host: str
    log_level: str


class Port(msgspec.Struct, frozen=True):
    """The first line of the answer: where the scheduler listens."""

    port: int


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A task: some jobs, for a node or for any (""); a larger priority goes first. Where it is
    short it needs no slot of its own: the agent has it before one is free."""

    task: int
    jobs: list[int]
    node: str
    priority: int
    is_short: bool


class Drop(msgspec.Struct, frozen=True, tag="drop"):
    """A task is not to be done any more, unless it runs."""

    task: int


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """An agent has gone: what it was sent is for others."""

    agent: str


class Ended(msgspec.Struct, frozen=True):
    """A task is over, however that came."""

    task: int


decode_said = msgspec.json.Decoder(Submit | Drop | Gone).decode
decode_ended = msgspec.json.Decoder(Ended).decode


def line(said: msgspec.Struct) -> bytes:
    """One line."""
    return msgspec.json.encode(said) + b"\n"
