"""The specification's own test: values of 1 KB, one after the other, by Python's requests.

The specification gives 0.243, 0.161 and 0.172 s ("request time, for a set of 10000 instances")
for a write, a read and a delete; they are taken as seconds per request. One `Session` sends all
requests, and each answer is read before the next one begins. What a request costs when nothing
is kept open (`requests.put` and so on, a connection each) is given as a note.
"""

import time
from collections.abc import Callable, Iterator

import requests

from bench.context import Context, Row
from bench.figures import Figure, Result, Unit, median
from bench.servers import BenchError, Pulzar

VALUE = b"pulzar: " * 125  # 1,000 bytes
SPECIFIED_S = {"put": 0.24316366999999997, "get": 0.16126144, "delete": 0.17187764}
ALONE = 300  # requests with a connection each

FIGURES = {
    verb: Figure(
        row="serial",
        what=f"{verb} of 1 KB by requests, one after the other: times faster than specified",
        unit=Unit.RATIO,
        floor=100,
        goal=300,
    )
    for verb in SPECIFIED_S
}


def urls(pulzar: Pulzar, verb: str, count: int) -> list[str]:
    """One URL per key."""
    path = pulzar.paths["del" if verb == "delete" else verb]
    return [pulzar.url + path % f"serial-{n:05}" for n in range(count)]


def send(verb: str, via: "requests.Session | None", url: str) -> "requests.Response":
    """One request, over a kept connection or over one of its own."""
    call: Callable[..., requests.Response] = getattr(requests if via is None else via, verb)
    return call(url, data=VALUE) if verb == "put" else call(url)


def seconds_each(pulzar: Pulzar, verb: str, count: int, *, kept: bool) -> float:
    """Seconds per request of `count` requests; every answer is checked."""
    targets = urls(pulzar, verb, count)
    with requests.Session() as session:
        via = session if kept else None
        begun = time.monotonic()
        for url in targets:
            answer = send(verb, via, url)
            right = answer.content == VALUE if verb == "get" else answer.ok
            if not right or not answer.ok:
                raise BenchError(f"{verb} {url}: {answer.status_code} {answer.text[:200]}")
        return (time.monotonic() - begun) / count


def serial(context: Context) -> Iterator[Result]:
    each: dict[str, list[float]] = {verb: [] for verb in SPECIFIED_S}
    alone: dict[str, float] = {}
    with context.pulzar() as pulzar:
        for verb in SPECIFIED_S:
            alone[verb] = seconds_each(pulzar, verb, ALONE, kept=False)
        for _ in range(context.scale.rounds):
            for verb, times in each.items():
                count = context.scale.serial_requests
                times.append(seconds_each(pulzar, verb, count, kept=True))
    for verb, times in each.items():
        yield Result(
            figure=FIGURES[verb],
            rounds=tuple(SPECIFIED_S[verb] / seconds for seconds in times),
            detail=f"{median(times) * 1e3:.3f} ms each, specified {SPECIFIED_S[verb] * 1e3:.0f} ms",
            notes=(f"without a session {alone[verb] * 1e3:.2f} ms each",),
        )


ROWS = (Row(name="serial", measure=serial),)
