"""What an operator asks of `pulzar up` while no other machine has joined it: one node, itself."""

from pulzar.cluster.front import FrontStore
from pulzar.cluster.operations import Departure, Health, Node, Progress
from pulzar.errors import Conflict, NodeNotFound


class LoneOperations:
    """Implements `Operable` for a machine that is alone."""

    def __init__(self, front: FrontStore) -> None:
        self._front = front

    def nodes(self) -> list[Node]:
        """Itself."""
        front, serving = self._front, self._front.local.serving
        used = serving.disk.used_bytes(serving.directory)
        free = serving.disk.free_bytes(serving.directory)
        failed = serving.volume.log.failed
        node = Node(
            node=front.name,
            id=serving.volume.id.hex(),
            url=front.url,
            state="online",
            synch=True,
            percent=round(100 * used / (used + free)),
            used_bytes=used,
            total_bytes=used + free,
            room_bytes=max(0, free - serving.room.reserve_bytes),
            keys=self._keys(),
            draining=False,
            silent_s=0.0,
            clock_off_s=0.0,
            remark=f"takes no writes: {failed}" if failed else "",
        )
        return [node]

    def _keys(self) -> int:
        return sum(copies.keys for copies in self._front.local.catalog.copies())

    def node(self, name: str) -> Node:
        """Itself. Raises NodeNotFound."""
        (node,) = self.nodes()
        if name not in (node.node, node.id):
            raise NodeNotFound(f"there is no volume {name!r} here; there is {node.node}")
        return node

    def health(self) -> Health:
        """Every key has one copy."""
        reason = self._front.not_ready()
        damaged = len(self._front.local.serving.maintenance.damaged())
        status = "ok"
        sentence = "Every byte has 1 copy, on this machine: back it up, or let another one join."
        if damaged:
            status = "critical"
            sentence = (
                f"{damaged} values do not match their checksums any more, the log says which: "
                "restore them from a backup, or delete them."
            )
        if reason is not None:
            status, sentence = "critical", f"Data cannot be served: {reason}."
        return Health(
            status=status,
            sentence=sentence,
            redundancy=1,
            wanted=1,
            keys=self._keys(),
            keys_lost=0,
            keys_unreachable=0,
            keys_under_replicated=0,
            doing=[],
        )

    async def drain(self, name: str, *, stop: bool, dry_run: bool) -> Departure:
        """Refused."""
        self.node(name)
        raise Conflict(f"volume {name} cannot be drained: there is no other to take its copies")

    async def remove(self, name: str, *, lost: bool, dry_run: bool) -> Departure:
        """Refused."""
        self.node(name)
        raise Conflict(f"volume {name} cannot be removed: it is the only one, and of this program")

    async def restore(self, url: str) -> Progress:
        """Let the volume at `url` join. Raises LinkBroken, MemberRefused, Forbidden."""
        await (await self._front.become_cluster()).master.look_at(url)
        return self.progress()

    def progress(self) -> Progress:
        """There is nothing to follow."""
        reason = self._front.not_ready()
        return Progress(ready=reason is None, sentence=reason or "this machine is alone", nodes=[])
