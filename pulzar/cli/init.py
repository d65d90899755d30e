"""`pulzar init DIR`: a site folder of your own, with the commented settings, and manage.py."""

import os
from importlib.resources import files

import click

from pulzar.cli.options import json_option
from pulzar.cli.output import print_json, print_line
from pulzar.config import SETTINGS_FILE
from pulzar.disk import Disk, SystemDisk, write_file
from pulzar.errors import InvalidParameter
from pulzar.settings import server_conf

MANAGE = "manage.py"
UWSGI = ("master.ini", "volume.ini")
EXAMPLES = ("example_01.py", "word_count.py", "clean_up.py")


def site_files() -> dict[str, str]:
    """What a new site folder holds: path in it -> content."""
    return {
        SETTINGS_FILE: server_conf(),
        **{f"config/{name}": _text(name) for name in UWSGI},
        MANAGE: _text(MANAGE),
        ".gitignore": "/storage/\n",
        **{f"jobs/examples/{name}": _text("examples", name) for name in EXAMPLES},
        "third_party/example.py": _text("example.py", package="pulzar.extensions.shipped"),
    }


def _text(*names: str, package: str = "pulzar.cli") -> str:
    return files(package).joinpath(*names).read_text(encoding="utf-8")


def make_site(disk: Disk, directory: str) -> list[str]:
    """Write the files of a new site; those that are there stay as they are.

    Returns the paths written. Raises InvalidParameter where the folder is a site already.
    """
    if disk.exists(os.path.join(directory, SETTINGS_FILE)):
        raise InvalidParameter(f"{directory} has a {SETTINGS_FILE} already; nothing was changed")
    written = []
    for name, content in site_files().items():
        path = os.path.join(directory, name)
        disk.make_directory(os.path.dirname(path))
        if not disk.exists(path):
            write_file(disk, path, content.encode())
            written.append(path)
    return written


@click.command("init")
@click.argument("directory", metavar="DIR")
@json_option
def command(directory: str, as_json: bool) -> None:
    """Make a site folder: settings, jobs, extensions.

    Writes config/server.conf with every setting explained, two files for uWSGI, manage.py, which
    needs nothing but Python, and the folders for job scripts and extensions, with examples. Files
    that are there already stay as they are. Start it with `pulzar up --app DIR`.
    """
    if not directory:
        raise InvalidParameter("DIR is empty: name a folder, . for this one")
    for path in make_site(SystemDisk(), directory):
        if as_json:
            print_json({"path": path})
        else:
            print_line(path)
