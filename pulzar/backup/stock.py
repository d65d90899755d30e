"""What a target has: its snapshots, whether they are whole, and what may go."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from pulzar.backup.run import check, load, require_backup, snapshot_ids
from pulzar.backup.snapshot import SNAPSHOTS, VOLUMES, Snapshot, objects, to_prune
from pulzar.backup.target import Target
from pulzar.limits import BACKUP_THREADS


class Listed(msgspec.Struct, frozen=True):
    """A snapshot in a list. `missing` are volumes that could not be asked then."""

    id: str
    volumes: int
    bytes: int
    missing: list[str]


class Wrong(msgspec.Struct, frozen=True):
    """An object that is not as it was written, and the snapshots that need it."""

    object: str
    what: str
    snapshots: list[str]


def listed(target: Target) -> list[Listed]:
    """Every snapshot, oldest first. Raises BackupUnfit, BackupUnreachable."""
    require_backup(target)
    return [_listed(load(target, one)) for one in snapshot_ids(target)]


def _listed(snapshot: Snapshot) -> Listed:
    size = sum(file.bytes for volume in snapshot.volumes for file in volume.files)
    missing = [one.name for one in snapshot.missing]
    return Listed(snapshot.id, len(snapshot.volumes), size, missing)


def verify(
    target: Target, ids: list[str] | None = None, *, on_bytes: Callable[[int], None]
) -> Iterator[Wrong]:
    """Read everything that snapshots need, all of them or `ids`; what is wrong. Raises BackupUnfit,
    BackupUnreachable."""
    require_backup(target)
    needed: dict[tuple[str, int, int], list[str]] = {}
    for one in snapshot_ids(target) if ids is None else ids:
        for item in objects([load(target, one)]):
            users = needed.setdefault(item, [])
            if one not in users:
                users.append(one)

    def checked(item: tuple[str, int, int]) -> str | None:
        wrong = check(target, *item)
        on_bytes(item[1])
        return wrong

    with ThreadPoolExecutor(BACKUP_THREADS) as pool:
        for item, what in zip(needed, pool.map(checked, needed), strict=True):
            if what is not None:
                yield Wrong(item[0], what, needed[item])


def verify_bytes(target: Target, ids: list[str] | None = None) -> int:
    """How many bytes `verify` will read."""
    require_backup(target)
    wanted = snapshot_ids(target) if ids is None else ids
    return sum(size for _, size, _ in set(objects(load(target, one) for one in wanted)))


class Pruned(msgspec.Struct, frozen=True):
    """What a prune removed."""

    snapshots: list[str]
    objects: int


def prune(target: Target, keep: int) -> Pruned:
    """Remove all but the last `keep` snapshots, and every object that none of those needs.

    Snapshots go first: what is named is always there. Raises BackupUnfit, BackupUnreachable.
    """
    require_backup(target)
    ids = snapshot_ids(target)
    going = to_prune(ids, keep)
    for one in going:
        target.delete(f"{SNAPSHOTS}/{one}.json")
    target.settle()  # else a power cut could bring one back whose objects are gone
    needed = {name for name, _, _ in objects(load(target, one) for one in ids if one not in going)}
    orphans = [name for name in target.names(VOLUMES) if name not in needed]
    for name in orphans:
        target.delete(name)
    return Pruned(going, len(orphans))
