"""READ_ME.py: lies in every volume directory and reads it with Python's standard library alone.

Its text is that of standalone_reader.py, which nothing imports. It is a service to whoever finds
a backup: where it cannot be written, the volume is opened all the same.
"""

import pkgutil

from pulzar.disk import Disk, read_file

READ_ME_NAME = "READ_ME.py"
_NEW_NAME = "READ_ME.py.new"


def read_me() -> bytes:
    """The text of READ_ME.py."""
    content = pkgutil.get_data("pulzar.varidb", "standalone_reader.py")
    if content is None:
        raise AssertionError("standalone_reader.py is part of the package")
    return content


def write_read_me(disk: Disk, directory: str) -> None:
    """Bring READ_ME.py up to this version. Its name becomes durable with the MANIFEST's."""
    path, new_path = f"{directory}/{READ_ME_NAME}", f"{directory}/{_NEW_NAME}"
    content = read_me()
    try:
        if disk.exists(path) and read_file(disk, path) == content:
            return
        if disk.exists(new_path):
            disk.unlink(new_path)
        file = disk.create(new_path)
        try:
            file.write([content], offset=0)
            file.sync()
        finally:
            file.close()
        disk.rename(new_path, path)
    except OSError:
        return
