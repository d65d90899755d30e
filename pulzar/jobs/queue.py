"""The jobs that wait, in the order in which they are to go: by priority, then by id. No I/O.

A job may stand here twice, or when it waits no more: each is looked at again before it is offered.
"""

import heapq
from collections.abc import Callable

from pulzar.errors import JobNotFound
from pulzar.jobs.record import Job
from pulzar.jobs.states import State
from pulzar.limits import JOB_PLACES_TRIED_MAX


class Queue:
    """Jobs that wait. `get` gives a job by its id, or raises JobNotFound."""

    def __init__(self, get: Callable[[int], Job]) -> None:
        self._get = get
        self._now: list[tuple[int, int]] = []  # a heap: -priority, id
        self._later: list[tuple[int, int]] = []  # a heap: when, id

    def __len__(self) -> int:
        return len(self._now)

    def add(self, job: Job, *, now_ms: int) -> None:
        """A job waits, for its time if that has not come."""
        if job.not_before_ms > now_ms:
            heapq.heappush(self._later, (job.not_before_ms, job.id))
        else:
            heapq.heappush(self._now, (-job.policy.priority, job.id))

    def put_back(self, number: int) -> None:
        """A job that was taken is to go, if it still waits."""
        job = self._waiting(number)
        if job is not None:
            heapq.heappush(self._now, (-job.policy.priority, job.id))

    def look(self, *, now_ms: int) -> None:
        """Those whose time has come wait for nothing else now."""
        while self._later and self._later[0][0] <= now_ms:
            self.put_back(heapq.heappop(self._later)[1])

    def offer(self, take: Callable[[Job], bool], *, goes_on: Callable[[], bool]) -> None:
        """Offer jobs, the first one first, as long as that `goes_on`; those that are not taken
        stay. After JOB_PLACES_TRIED_MAX of these the others wait too."""
        kept: list[tuple[int, int]] = []
        while self._now and goes_on() and len(kept) < JOB_PLACES_TRIED_MAX:
            order = heapq.heappop(self._now)
            job = self._waiting(order[1])
            if job is not None and not take(job):
                kept.append(order)
        for order in kept:
            heapq.heappush(self._now, order)

    def _waiting(self, number: int) -> Job | None:
        try:
            job = self._get(number)
        except JobNotFound:
            return None
        return job if job.state == State.PENDING else None
