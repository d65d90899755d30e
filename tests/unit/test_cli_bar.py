"""What is drawn on a terminal while jobs are waited for."""

import os
import pty
import subprocess
import sys

PROGRAM = """
from pulzar.cli.bar import shown
with shown("job 7") as bar:
    bar.write("one\\ntw")
    bar.show("job 7 running", 0.5, 1.0)
    bar.write("o\\n[red]no markup[/red]")
"""


def test_whole_lines_stand_above_a_bar_that_goes_away() -> None:
    leader, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    program = [sys.executable, "-c", PROGRAM]
    subprocess.run(program, stderr=terminal, env=environment, check=True, timeout=60)
    os.close(terminal)
    written = b""
    try:
        while piece := os.read(leader, 65536):
            written += piece
    except OSError:  # as Linux says that nobody writes any more
        pass
    finally:
        os.close(leader)
    text = written.decode()
    assert "one\r\n" in text
    assert "two\r\n" in text
    assert "[red]no markup[/red]" in text
    assert "job 7 running" in text
    assert "50%" in text
