"""Where the volume is that a command is to look at.

DIR may be the volume's own directory or the data directory that holds it (the one of `[volume]
dir` and `--data`), whichever the user has at hand.
"""

import errno
import os

from pulzar.disk import Disk
from pulzar.errors import NotAVolume
from pulzar.varidb.identity import IDENTITY_NAME

VOLUME_NAME = "volume"  # in the data directory


def volume_directory(disk: Disk, directory: str) -> str:
    """The volume at `directory` or in it. Raises NotAVolume, PermissionError."""
    if os.path.isdir(directory) and not os.access(directory, os.R_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)
    for candidate in (directory, os.path.join(directory, VOLUME_NAME)):
        if disk.exists(os.path.join(candidate, IDENTITY_NAME)):
            return os.path.normpath(candidate)
    raise NotAVolume(f"{directory} is not a volume and holds none: there is no {IDENTITY_NAME}")


def data_directory(disk: Disk, directory: str) -> str:
    """The data directory that is `directory` or whose volume it is. Raises NotAVolume."""
    volume = os.path.abspath(volume_directory(disk, directory))
    if os.path.basename(volume) != VOLUME_NAME:
        raise NotAVolume(
            f"{directory} is not the {VOLUME_NAME}/ of a data directory: it has no views"
        )
    return os.path.dirname(volume)
