"""Two pipes between a process and its warm child: frames of JSON behind their length.

      0        4
      +--------+---------------------+
      | length | JSON, an object      |
      | u32 BE | so many bytes        |
      +--------+---------------------+

What runs in the child does not know of them: stdout and stderr are its own. Nothing but the
standard library is imported here: a child is to be there in a few milliseconds.
"""

import json
import os
import resource
import struct
import sys
import threading
from typing import Any, BinaryIO, TypeAlias

from pulzar.parent import die_with_parent

LENGTH = struct.Struct(">I")
PIPES = "PULZAR_CHILD"
"""The variable with the numbers of both pipes, and how much memory the child may have (0: any)."""

Frame: TypeAlias = dict[str, Any]


class Pipes:
    """The child's side of the two pipes."""

    def __init__(self, source: BinaryIO, target: BinaryIO) -> None:
        self._source = source
        self._target = target
        self._lock = threading.Lock()

    def read(self) -> Frame | None:
        """The next frame; None when the parent has gone."""
        head = self._source.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        frame: Frame = json.loads(self._source.read(LENGTH.unpack(head)[0]))
        return frame

    def write(self, frame: Frame) -> None:
        """Send a frame; from any thread."""
        content = pack(frame)
        with self._lock:
            self._target.write(content)
            self._target.flush()


def begin() -> Pipes:
    """The first thing that a child does: end with its parent, obey its limit, take its pipes."""
    die_with_parent()
    source, target, memory = (int(number) for number in os.environ.pop(PIPES).split(","))
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    for number in (source, target):
        os.set_inheritable(number, False)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return Pipes(os.fdopen(source, "rb"), os.fdopen(target, "wb"))


def pack(frame: Frame) -> bytes:
    """A frame as it is sent."""
    content = json.dumps(frame).encode()
    return LENGTH.pack(len(content)) + content
