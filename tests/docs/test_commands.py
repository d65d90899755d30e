"""The commands of README and docs are run, in order, against a real server.

Each page gets an empty directory and a server of its own, whose data is `storage` in that
directory, as after `pulzar up --data storage`. The page's http://127.0.0.1:9000 becomes the
server's real address, and PULZAR_MASTER names it. Every block must exit with 0.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pulzar.client.process import Server
from tests.docs.fences import ROOT, Block, blocks, commands, documents, matches

ADDRESS = re.compile(r"http://(127\.0\.0\.1|localhost):9000")
BLOCK_S_MAX = 45

# The first line of every block that is not run. Each is run by something else, or by nobody.
NOT_RUN_ALLOWED: dict[str, set[str]] = {
    "README.md": {
        "make demo",  # .ci/run
        "python3 -m venv venv",  # .ci/environment does the same
        "pulzar up --data storage",  # the server of this very test
        "make bench",  # takes a quarter of an hour
    },
    "docs/operations.md": {
        "docker build --rm -f dockers/DockerfileMaster -t varidb_master:latest .",
        "cd app",
    },
}

PAGES = [path for path in documents() if any(not block.not_run for block in commands(path))]


def run(block: Block, *, where: Path, url: str) -> str:
    """Run a block with `sh -eu` and give what it printed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-eu", "-c", ADDRESS.sub(url, block.text)],
        check=False,
        cwd=where,
        env={**os.environ, "PATH": path, "PULZAR_MASTER": url, "HOME": str(where)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BLOCK_S_MAX,
    )
    assert done.returncode == 0, f"{block} ended with {done.returncode}:\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages use curl")
@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_work_as_written(page: str, tmp_path: Path) -> None:
    options = ["--jobs", str(tmp_path / "jobs"), "--third-party", str(tmp_path / "third_party")]
    with Server(str(tmp_path / "storage"), options=options) as server:
        for block in commands(page):
            if block.not_run:
                continue
            if block.stopped:
                server.terminate()
            printed = run(block, where=tmp_path, url=server.url)
            if block.printed is not None:
                expected = ADDRESS.sub(server.url, block.printed)
                assert matches(printed, expected), f"{block} printed:\n{printed}"
            if block.stopped:
                server.start()


def test_blocks_that_are_not_run_are_few_and_known() -> None:
    left_out = {
        path: {block.first for block in commands(path) if block.not_run} for path in documents()
    }
    assert {path: firsts for path, firsts in left_out.items() if firsts} == NOT_RUN_ALLOWED


def test_no_command_hides_in_a_block_of_another_language() -> None:
    hidden = [
        str(block)
        for path in documents()
        for block in blocks(path, (ROOT / path).read_text())
        if block.language in {"", "bash", "shell", "console", "zsh"}
        and re.search(r"^\$? *(curl|pulzar|make) ", block.text, re.MULTILINE)
    ]
    assert hidden == []


PAGE = """
```sh
echo one
```

```text
o...
```

<!-- not run: it would take a day -->
```sh
sleep 86400
```

<!-- with the server stopped -->

```sh
pulzar check storage/volume
```
Words.
```text
not what a command prints
```
"""


def test_markers_and_output_are_understood() -> None:
    first, output, second, third, _ = blocks("page.md", PAGE)
    assert (first.line, first.printed, first.not_run, first.stopped) == (2, "o...\n", "", False)
    assert output.language == "text"
    assert second.not_run == "it would take a day"
    assert (third.stopped, third.printed, third.not_run) == (True, None, "")


def test_output_is_compared() -> None:
    assert matches('{"key":"a","etag":"1"}\n', '{"key":"a",...}\n')
    assert not matches('{"key":"b","etag":"1"}\n', '{"key":"a",...}\n')


def test_a_block_that_fails_is_a_failure(tmp_path: Path) -> None:
    block = blocks("page.md", "```sh\nfalse\ntrue\n```\n")[0]
    with pytest.raises(AssertionError, match="ended with 1"):
        run(block, where=tmp_path, url="http://127.0.0.1:1")
