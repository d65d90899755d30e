"""Machines on one: network namespaces behind a bridge, between which the network can be cut.

    with Islands(["master", "v0", "v1"]) as islands:
        islands.hosts["v0"]                  its address, which this process reaches too
        islands.command("v0")                what a program is started by to be there
        islands.cut("v0", "v1")              packets between the two are lost, without a word
        islands.heal("v0", "v1")

Needs root and iproute2; `available()` says whether it would work. A cut is an address of the link
layer that nobody has, in the table of neighbours of both sides: nothing is refused, nothing is
answered, as where a cable is pulled.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

NOBODY = "02:00:00:00:ff:fe"

_COUNT = itertools.count()


def available() -> bool:
    """Whether this process may make networks."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"pzt{os.getpid() % 100_000}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode == 0:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made.returncode == 0


class Islands:
    """See the module."""

    def __init__(self, names: Sequence[str]) -> None:
        number = os.getpid() % 60_000
        self._prefix = f"pz{number:x}{next(_COUNT)}"  # a namespace is gone a while after its end
        self._subnet = f"10.{100 + number % 100}.{number // 100 % 250}"
        self.hosts = {name: f"{self._subnet}.{10 + at}" for at, name in enumerate(names)}
        self._spaces = {name: f"{self._prefix}-{name}" for name in names}
        self._bridge = f"{self._prefix}b"

    def command(self, name: str) -> list[str]:
        """What the command of a program begins with so that it runs there."""
        return ["ip", "netns", "exec", self._spaces[name]]

    def cut(self, one: str, other: str) -> None:
        """Lose every packet between two machines."""
        for here, there in ((one, other), (other, one)):
            self._inside(
                here, "neigh", "replace", self.hosts[there], "lladdr", NOBODY, "dev", "eth0",
                "nud", "permanent",
            )  # fmt: skip

    def heal(self, one: str, other: str) -> None:
        """Undo `cut`."""
        for here, there in ((one, other), (other, one)):
            self._inside(here, "neigh", "del", self.hosts[there], "dev", "eth0")

    def __enter__(self) -> Self:
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{self._subnet}.1/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for at, (name, space) in enumerate(self._spaces.items()):
                outside, inside = f"{self._prefix}o{at}", f"{self._prefix}i{at}"
                _ip("netns", "add", space)
                _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
                _ip("link", "set", outside, "master", self._bridge, "up")
                _ip("link", "set", inside, "netns", space)
                self._inside(name, "link", "set", inside, "name", "eth0")
                self._inside(name, "addr", "add", f"{self.hosts[name]}/24", "dev", "eth0")
                self._inside(name, "link", "set", "eth0", "up")
                self._inside(name, "link", "set", "lo", "up")
        except BaseException:  # nothing may be left behind
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def _inside(self, name: str, *words: str) -> None:
        _ip("-n", self._spaces[name], *words)

    def _remove(self) -> None:
        for space in self._spaces.values():
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
