"""The scripts of a site: `jobs/{directory}/{script}.py`, each directory known by its content.

A directory is shipped as a whole, as a tar file named by the hash of what is in it, so a node that
has the hash has the script. Looking whether anything has changed takes names, sizes and times;
only where those have changed is the content read again.

What a name may be is decided by `NAME`: no dots, no slashes, nothing hidden. What leads out of the
directory, a link, is left out.
"""

import hashlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from difflib import get_close_matches

import msgspec

from pulzar.errors import InvalidParameter, ScriptNotFound
from pulzar.limits import SCRIPTS_BYTES_MAX, SCRIPTS_FILES_MAX

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
_SKIPPED = ("__pycache__",)

_File = tuple[str, int, int, int]  # relative path, inode, size, time of its last change in ns


class Archive(msgspec.Struct, frozen=True):
    """A directory of scripts: a tar file and the hash (SHA-256, hex) of what is in it."""

    digest: str
    content: bytes


class Scripts:
    """The scripts of one site. `path` is the directory `jobs`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._known: dict[str, tuple[list[_File], Archive]] = {}

    def find(self, directory: str, script: str) -> Archive:
        """The directory of a script that is there. Raises ScriptNotFound, InvalidParameter."""
        if not NAME.fullmatch(directory) or not self._is_directory(directory):
            raise ScriptNotFound(self._no_directory(directory))
        if not NAME.fullmatch(script):
            raise ScriptNotFound(self._no_script(directory, script))
        found = sorted(self._files(directory))
        if not any(name == f"{script}.py" for name, *_ in found):
            raise ScriptNotFound(self._no_script(directory, script))
        known = self._known.get(directory)
        if known is None or known[0] != found:
            known = self._known[directory] = found, self._archive(directory, found)
        return known[1]

    def directories(self) -> list[str]:
        """The names of all directories of scripts."""
        try:
            names = os.listdir(self.path)
        except OSError:
            return []
        return sorted(name for name in names if NAME.fullmatch(name) and self._is_directory(name))

    def scripts(self, directory: str) -> list[str]:
        """The names of all scripts in a directory."""
        names = (name.removesuffix(".py") for name, *_ in self._files(directory) if "/" not in name)
        return sorted(name for name in names if NAME.fullmatch(name))

    def _is_directory(self, directory: str) -> bool:
        try:
            mode = os.lstat(os.path.join(self.path, directory)).st_mode
        except OSError:
            return False
        return stat.S_ISDIR(mode)

    def _files(self, directory: str) -> Iterator[_File]:
        """All that belongs to a directory. Raises InvalidParameter where that is too much."""
        root = os.path.join(self.path, directory)
        count = size = 0
        waiting = [""]
        while waiting:
            below = waiting.pop()
            with os.scandir(os.path.join(root, below)) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in _SKIPPED:
                        continue
                    name = f"{below}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{name}/")
                    elif entry.is_file(follow_symlinks=False):
                        found = entry.stat(follow_symlinks=False)
                        count, size = count + 1, size + found.st_size
                        yield name, found.st_ino, found.st_size, found.st_mtime_ns
                    if count > SCRIPTS_FILES_MAX or size > SCRIPTS_BYTES_MAX:
                        raise InvalidParameter(
                            f"{root} holds more than {SCRIPTS_FILES_MAX} files or "
                            f"{SCRIPTS_BYTES_MAX} bytes: keep data in VariDB, and scripts here"
                        )

    def _archive(self, directory: str, found: list[_File]) -> Archive:
        """Its content. Names and bytes count for the hash, times and owners do not."""
        packed = io.BytesIO()
        digest = hashlib.sha256()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, *_ in found:
                with open(os.path.join(self.path, directory, name), "rb") as file:
                    content = file.read()
                digest.update(b"%d %b %d " % (len(name.encode()), name.encode(), len(content)))
                digest.update(content)
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return Archive(digest.hexdigest(), packed.getvalue())

    def _no_directory(self, directory: str) -> str:
        there = self.directories()
        near = get_close_matches(directory, there, n=3) or there[:10]
        hint = f"there is {', '.join(near)}" if near else f"there is none in {self.path}"
        return f"there is no directory of scripts named {directory!r}; {hint}"

    def _no_script(self, directory: str, script: str) -> str:
        there = self.scripts(directory)
        near = get_close_matches(script, there, n=3) or there[:10]
        hint = f"there is {', '.join(near)}" if near else "there is none"
        return f"there is no script {script!r} in {directory}; {hint}"
