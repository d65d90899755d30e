"""The files that start Pulzar by itself name commands and settings that there are."""

import configparser
import re
from pathlib import Path

import pytest

from pulzar.cli import COMMANDS
from pulzar.cli.init import UWSGI
from pulzar.config import BY_VARIABLE
from tests.docs.fences import ROOT

UNITS = sorted((ROOT / "systemd").glob("*.service"))
DOCKERS = sorted((ROOT / "dockers").iterdir())


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command(path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(path)
    program, command, *_ = unit["Service"]["ExecStart"].split()
    assert program == "/opt/pulzar/bin/pulzar"
    assert command in COMMANDS
    assert unit["Service"]["User"] == "pulzar"
    assert f"systemctl enable --now {path.stem}" in path.read_text()


@pytest.mark.parametrize("path", DOCKERS, ids=lambda path: path.name)
def test_containers_use_settings_that_there_are(path: Path) -> None:
    names = set(re.findall(r"\bPULZAR_\w+", path.read_text()))
    assert names
    assert names <= set(BY_VARIABLE)


def test_the_files_for_uwsgi_are_those_that_init_writes() -> None:
    for name in UWSGI:
        assert (ROOT / "app" / "config" / name).read_text() == (
            ROOT / "pulzar" / "cli" / name
        ).read_text()
    shipped = ROOT / "pulzar" / "extensions" / "shipped" / "example.py"
    assert (ROOT / "app" / "third_party" / "example.py").read_text() == shipped.read_text()
