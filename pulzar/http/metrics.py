"""GET /metrics: the counters of requests and of the store, in the text format of Prometheus.

Requests only add to plain numbers in a `Tally`; they become metrics when somebody asks.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Statistics: TypeAlias = Callable[[], dict[str, float]]


class Tally:
    """What was answered, by verb and status; how many requests are open; bytes of values."""

    __slots__ = ("answers", "open", "received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.answers: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.open = 0
        self.received_bytes = 0
        self.sent_bytes = 0


class Metrics(Collector):
    """Reads the tally, and the statistics of all that is to be counted, when asked."""

    def __init__(self, tally: Tally, *statistics: Statistics) -> None:
        self._statistics = list(statistics)
        self._tally = tally
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        tally = self._tally
        answers = CounterMetricFamily(
            "pulzar_http_answers", "Answers by verb and status.", labels=["verb", "status"]
        )
        for (verb, status), count in sorted(tally.answers.items()):
            answers.add_metric([verb, str(status)], count)
        yield answers
        yield GaugeMetricFamily("pulzar_http_requests_open", "Requests at work.", tally.open)
        yield CounterMetricFamily(
            "pulzar_http_received_bytes", "Bytes of values received.", tally.received_bytes
        )
        yield CounterMetricFamily(
            "pulzar_http_sent_bytes", "Bytes of values sent.", tally.sent_bytes
        )
        found = [one for statistics in self._statistics for one in statistics().items()]
        for name, value in sorted(found):
            words = name.replace("_", " ")
            if name.endswith("_total"):
                counter = f"pulzar_{name.removesuffix('_total')}"
                yield CounterMetricFamily(counter, f"{words}.", value)
            else:
                yield GaugeMetricFamily(f"pulzar_{name}", f"{words}.", value)

    def add(self, statistics: Statistics) -> None:
        """There is more to count."""
        self._statistics.append(statistics)

    async def get(self, _: Request) -> Response:
        """GET /metrics."""
        return Response(generate_latest(self._registry), media_type=MEDIA_TYPE)
