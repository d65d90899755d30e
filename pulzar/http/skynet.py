"""/skynet/...: what volumes say to their master. Inside the cluster only."""

from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from pulzar.cluster.checks import check_presence_fields, check_size, check_text, check_upload_done
from pulzar.cluster.messages import (
    Committed,
    Message,
    Presence,
    UploadDone,
    UploadPlan,
    UploadWanted,
    Welcome,
)
from pulzar.errors import InvalidParameter
from pulzar.http.application import Paths
from pulzar.http.internal import Internal
from pulzar.limits import REPLICAS_MAX

PATHS: Paths = {
    "/skynet/heartbeat": (("POST",), "internal"),
    "/skynet/upload": (("POST",), "internal"),
    "/skynet/commit": (("POST",), "internal"),
}


class MasterSide(Protocol):
    """What volumes ask of a master."""

    async def heartbeat(self, presence: Presence, host: str) -> Welcome:
        """A volume is there. Raises MemberRefused, Unavailable."""

    async def plan_upload(self, wanted: UploadWanted) -> UploadPlan:
        """Where the copies of a large value go that a volume was asked to take."""

    async def commit_upload(self, done: UploadDone) -> Committed:
        """Give an upload its key. Raises as `Store.put`."""


class Skynet:
    """The endpoints of one master."""

    def __init__(self, cluster: MasterSide, internal: Internal) -> None:
        self._cluster = cluster
        self._internal = internal
        self.endpoints: dict[str, ASGIApp] = {
            "/skynet/heartbeat": self._heartbeat,
            "/skynet/upload": internal.call(UploadWanted, cluster.plan_upload, _check_wanted),
            "/skynet/commit": internal.call(UploadDone, cluster.commit_upload, check_upload_done),
        }

    async def _heartbeat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A heartbeat; the host that it comes from is the volume's machine."""
        client = scope.get("client")
        host = str(client[0]) if client else ""

        async def work(presence: Presence) -> Message:
            return await self._cluster.heartbeat(presence, host)

        endpoint = self._internal.call(Presence, work, check_presence_fields)
        await endpoint(scope, receive, send)


def _check_wanted(wanted: UploadWanted) -> None:
    check_text("a volume's id", wanted.volume)
    if wanted.size != -1:
        check_size(wanted.size)
    if not 0 <= wanted.replicas <= REPLICAS_MAX:
        raise InvalidParameter(f"replicas is from 1 to {REPLICAS_MAX}")
