"""Who a cluster is: its key, and what a master keeps beside its catalog.

    DIR/cluster.key     64 hex digits, mode 0600: whoever has it may speak as a master or a volume
    DIR/cluster.json    {"format": 1, "cluster": "32 hex", "epoch": n, "members": {...}, ...}

The cluster's id is derived from its key, so that an empty master that is given the key back is the
same cluster. cluster.json tells a master that restarts whom to wait for, and where they were; when
it is lost, the volumes tell: their logs have the epochs and the lists of members.
"""

import hashlib
import re
from collections.abc import Callable

import msgspec

from pulzar.cluster.membership import Members
from pulzar.disk import Disk, read_file, replace_file
from pulzar.errors import InvalidSetting, OpenError

KEY_NAME = "cluster.key"
STATE_NAME = "cluster.json"
FORMAT = 1
KEY_BYTES = 32

_KEY = re.compile(r"[0-9a-f]{64}")


class MasterState(msgspec.Struct, frozen=True, kw_only=True):
    """The content of cluster.json. `epoch` is the largest that was ever taken, `founded` whether
    the key was made here: else the cluster may be older than this directory. `unwitnessed` are the
    members of which no other member knows yet."""

    format: int
    cluster: str
    epoch: int
    members: Members
    urls: dict[str, str]
    unwitnessed: tuple[str, ...] = ()
    founded: bool = False


def cluster_id(key: str) -> str:
    """The id of the cluster with that key."""
    return hashlib.sha256(b"pulzar cluster id " + bytes.fromhex(key)).hexdigest()[:32]


def read_key(disk: Disk, path: str) -> str:
    """The cluster key in a file. Raises InvalidSetting."""
    try:
        text = read_file(disk, path).decode("ascii", "replace").strip()
    except OSError as error:
        raise InvalidSetting(
            f"the cluster key {path} cannot be read: {error.strerror}; copy cluster.key from the "
            "data directory of the master"
        ) from None
    if not _KEY.fullmatch(text):
        raise InvalidSetting(f"{path} is no cluster key: that has 64 hex digits")
    return text


def keep_key(disk: Disk, directory: str, key: str) -> None:
    """Keep the key in `directory`, durably, readable by its owner only. Raises OSError."""
    path = f"{directory}/{KEY_NAME}"
    if disk.exists(path):
        return
    replace_file(disk, path, key.encode() + b"\n", private=True)


def own_key(
    disk: Disk, directory: str, *, token: Callable[[int], bytes], new_cluster: bool = False
) -> str:
    """The key of the cluster whose master is in `directory`; made at the first start.

    `new_cluster`: a key that is there is that of a cluster which has no volumes yet. Raises
    InvalidSetting, OpenError, OSError.
    """
    path = f"{directory}/{KEY_NAME}"
    if disk.exists(path):
        key = read_key(disk, path)
        state = read_state(disk, directory, cluster_id(key))
        if new_cluster and not state.founded:
            write_state(disk, directory, msgspec.structs.replace(state, founded=True))
        return key
    found = _state(disk, directory)
    if found is not None and found.members.generation:
        raise OpenError(
            f"{path} is missing, and {STATE_NAME} beside it knows volumes: put the key back, every "
            "volume keeps a copy of it in its data directory"
        )
    key = token(KEY_BYTES).hex()
    # Before the key: a crash in between makes another one.
    write_state(disk, directory, msgspec.structs.replace(_empty(cluster_id(key)), founded=True))
    keep_key(disk, directory, key)
    return key


def read_state(disk: Disk, directory: str, cluster: str) -> MasterState:
    """What a master kept; an empty state at its first start. Raises OpenError, OSError."""
    state = _state(disk, directory)
    if state is None:
        return _empty(cluster)
    if state.cluster != cluster:
        raise OpenError(
            f"{directory} belongs to cluster {state.cluster}, its {KEY_NAME} to {cluster}: "
            "put the right key there, or use another directory"
        )
    return state


def _empty(cluster: str) -> MasterState:
    members = Members(cluster=cluster)
    return MasterState(format=FORMAT, cluster=cluster, epoch=0, members=members, urls={})


def _state(disk: Disk, directory: str) -> MasterState | None:
    """What cluster.json says; None where there is none. Raises OpenError, OSError."""
    path = f"{directory}/{STATE_NAME}"
    if not disk.exists(path):
        return None
    try:
        state = msgspec.json.decode(read_file(disk, path), type=MasterState)
    except msgspec.DecodeError as error:
        raise OpenError(
            f"{path} cannot be read ({error}): remove it, the volumes know what it said"
        ) from None
    if state.format != FORMAT:
        raise OpenError(f"{path} has format {state.format}; this version of Pulzar reads {FORMAT}")
    return state


def write_state(disk: Disk, directory: str, state: MasterState) -> None:
    """Keep it, durably. Raises OSError."""
    content = msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n"
    replace_file(disk, f"{directory}/{STATE_NAME}", content)
