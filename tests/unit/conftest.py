"""What tests of several files are given."""

from pathlib import Path

import pytest

from pulzar.jobs.scripts import Scripts


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    """A site with one script, which does nothing."""
    directory = tmp_path / "jobs" / "d"
    directory.mkdir(parents=True)
    (directory / "s.py").write_text("def execute(arguments): return 1\n")
    return Scripts(str(tmp_path / "jobs"))
