"""`pulzar torture` as a program: it finds nothing on a good server, and finds what is wrong."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pulzar.client.ledger import ABSENT, Expected, Ledger, Verdict, decode
from pulzar.client.process import Server
from tests.crash.wire import exchange, put, request, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

SECONDS = 6
TORTURE = [sys.executable, "-P", "-c", "from pulzar.cli import main; main()", "torture", "--json"]


def torture(*options: str) -> tuple[int, dict[str, Any]]:
    """Its exit code and its report."""
    ended = subprocess.run([*TORTURE, *options], capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


@pytest.fixture(scope="module")
def tortured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A directory after one run, and its report."""
    directory = tmp_path_factory.mktemp("torture") / "run"
    code, report = torture("--seconds", str(SECONDS), "--data", str(directory))
    assert code == 0, report
    yield directory, report
    shutil.rmtree(directory)


@pytest.fixture
def copy(tortured: tuple[Path, dict[str, Any]], tmp_path: Path) -> Iterator[Path]:
    """A copy of that directory, to do harm to."""
    directory = tmp_path / "copy"
    shutil.copytree(tortured[0], directory)
    yield directory
    shutil.rmtree(directory)


def expected(directory: Path) -> dict[str, Expected]:
    """What every key may hold, by the ledgers."""
    keys: dict[str, Expected] = {}
    for path in directory.glob("ledger/*.jsonl"):
        with path.open("rb") as file:
            keys.update(Ledger(decode(file)).keys)
    return keys


def test_it_kills_again_and_again_and_nothing_is_lost(
    tortured: tuple[Path, dict[str, Any]],
) -> None:
    report = tortured[1]
    assert report["kills"] >= 2
    assert report["acknowledged"] > 100
    assert report["kept"] == report["acknowledged"]
    assert (report["lost"], report["problems"]) == (0, [])


def test_it_verifies_again_what_it_left(copy: Path) -> None:
    code, report = torture("--verify", "--data", str(copy))
    assert (code, report["lost"], report["problems"]) == (0, 0, [])


def test_it_finds_what_a_lying_disk_dropped(copy: Path) -> None:
    """Records were acknowledged and are not there: the second half of each segment is cut off."""
    for path in copy.glob("data/volume/segments/*.seg"):
        with path.open("r+b") as file:
            file.truncate(max(4096, path.stat().st_size // 2))
    code, report = torture("--verify", "--data", str(copy))
    assert code == 1
    assert report["lost"] > 0
    assert report["kept"] == report["acknowledged"] - report["lost"]
    assert report["problems"]


def test_it_finds_that_everything_is_gone(copy: Path) -> None:
    shutil.rmtree(copy / "data")
    missed = [one for one in expected(copy).values() if one.judge(ABSENT) is not Verdict.KEPT]
    code, report = torture("--verify", "--data", str(copy))
    assert (code, report["lost"]) == (1, len(missed))
    assert all("is not there" in problem for problem in report["problems"])


def test_it_finds_every_kind_of_change_behind_its_back(copy: Path) -> None:
    states = {key: one.certain for key, one in expected(copy).items() if one.is_certain}
    removed, replaced = [key for key, state in states.items() if state != ABSENT][:2]
    returned = next(key for key, state in states.items() if state == ABSENT)
    options = ["--config", str(copy / "server.conf")]
    with Server(str(copy / "data"), options=options) as server:
        exchange(server.url, request("DELETE", f"/delete_key/{removed}"))
        for key in (replaced, returned, "torture/9/999"):
            exchange(server.url, put(key, b"nobody attempted this"))
        assert server.terminate() == 0
    code, report = torture("--verify", "--data", str(copy))
    assert (code, report["lost"]) == (1, 3)
    problems = "\n".join(sorted(report["problems"]))
    for key, sentence in [
        (removed, "an acknowledged value is not there"),
        (replaced, "the value is neither the acknowledged nor an attempted one"),
        (returned, "a deleted value is there again"),
        ("torture/9/999", "is there and was never written"),
    ]:
        assert f"{key}: {sentence}" in problems


def test_it_does_not_touch_a_directory_that_was_used(copy: Path) -> None:
    ended = subprocess.run(
        [*TORTURE, "--data", str(copy)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 6
    assert "File exists" in ended.stderr
    assert torture("--verify", "--data", str(copy))[0] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_run_that_was_cut_short_is_judged_by_its_ledgers(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    directory = tmp_path / "cut"
    process = subprocess.Popen([*TORTURE, "--data", str(directory)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(expected(directory)) > 100, "it has written")
    finally:
        process.send_signal(number)
        ended = process.wait(30)
        left = servers_on(directory)
        for server in left:
            server.kill()
        psutil.wait_procs(left)
    assert ended == code
    assert bool(left) == (number == signal.SIGKILL)
    code, report = torture("--verify", "--data", str(directory))
    assert (code, report["problems"]) == (0, [])
    assert report["acknowledged"] > 0


def servers_on(directory: Path) -> list[psutil.Process]:
    """The servers of a torture in `directory`."""
    data = str(directory / "data")
    return [one for one in psutil.process_iter(["cmdline"]) if data in (one.info["cmdline"] or [])]
