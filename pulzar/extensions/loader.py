"""Which file answers for an extension: the user's own directory first, then what ships.

A changed file is picked up because every call looks at the names, sizes and times of all files of
Python in the directory of its module: the stamp. A child process that has loaded another stamp is
replaced.
"""

import os
import re
from difflib import get_close_matches

import msgspec

from pulzar.errors import ExtensionNotFound, InvalidParameter
from pulzar.limits import EXTENSION_FILES_MAX

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shipped")
_SUFFIX = ".py"
_SHOWN_MAX = 10


class Module(msgspec.Struct, frozen=True):
    """A module that answers: its name, the directory that it is in, and the stamp of that."""

    name: str
    directory: str
    stamp: str


class Loader:
    """Finds modules in `directory`, which may not be there, and in what ships."""

    def __init__(self, directory: str) -> None:
        self._directories = (os.path.abspath(directory), SHIPPED)

    def find(self, name: str) -> Module:
        """The module that answers for `name`. Raises ExtensionNotFound, InvalidParameter where its
        directory has more than EXTENSION_FILES_MAX files."""
        if NAME.fullmatch(name):
            for directory in self._directories:
                stamps = _stamps(directory)
                if f"{name}{_SUFFIX}" in stamps:
                    return Module(name, directory, repr(sorted(stamps.items())))
        raise ExtensionNotFound(self._hint(name))

    def names(self) -> list[str]:
        """Every extension that there is."""
        found = {name for directory in self._directories for name in _stamps(directory)}
        names = (name.removesuffix(_SUFFIX) for name in found)
        return sorted(name for name in names if NAME.fullmatch(name))

    def _hint(self, name: str) -> str:
        there = self.names()
        near = get_close_matches(name, there, n=3) or there[:_SHOWN_MAX]
        return f"there is no extension {name[:64]!r}; there is {', '.join(near)}"


def _stamps(directory: str) -> dict[str, tuple[int, int, int]]:
    """The files of Python in a directory, and what changes when they do; none where it is not
    there."""
    stamps: dict[str, tuple[int, int, int]] = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX) and entry.is_file():
                    found = entry.stat()
                    stamps[entry.name] = found.st_ino, found.st_size, found.st_mtime_ns
                    if len(stamps) > EXTENSION_FILES_MAX:
                        raise InvalidParameter(
                            f"{directory} has more than {EXTENSION_FILES_MAX} files of Python"
                        )
    except OSError:
        return {}
    return stamps
