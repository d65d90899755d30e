"""`pulzar up` as a program: the ready line, signals, and what it says when it cannot start."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest

from pulzar.program import OUR_NAMES

Start = Callable[..., subprocess.Popen[str]]

UP = [sys.executable, "-c", "from pulzar.cli import main; main()", "up"]
DEADLINE_S = 20
TOGETHER_S = 3  # it is to take one; this machine may be busy


def environment(**variables: str) -> dict[str, str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PULZAR_")}
    return clean | variables


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `pulzar up` with options; ends what is left at the end."""
    started: list[subprocess.Popen[str]] = []

    def up(*options: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*UP, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(XDG_DATA_HOME=str(tmp_path / "home"), **variables),
        )
        started.append(process)
        return process

    yield up
    for process in started:
        process.kill()
        process.communicate()


def ready_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"pulzar: ready at (http://\S+:\d+)\n", line)
    assert found is not None, line or process.communicate()[1]
    return found[1]


def put(url: str, key: str, value: bytes) -> None:
    with urlopen(Request(f"{url}/add_key/{key}", value, method="PUT"), timeout=DEADLINE_S):
        pass


def get(url: str, key: str) -> bytes:
    with urlopen(f"{url}/get_key/{key}", timeout=DEADLINE_S) as answer:
        content = answer.read()
    assert isinstance(content, bytes)
    return content


def refused(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and the last line on stderr, of one that cannot start."""
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert output == ""
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("pulzar: ")
    return process.returncode, last


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_says_ready_once_answers_and_stops_cleanly(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    process = start("--port", "0", "--data", str(tmp_path / "data"))
    url = ready_url(process)
    put(url, "a", b"value")
    assert get(url, "a") == b"value"
    process.send_signal(number)
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, output) == (0, "")
    assert "stopped" in errors.splitlines()[-1]
    there = set(
        os.listdir(tmp_path / "data")
    )  # the agent comes a moment later, names with a search
    assert there | {"agent"} == OUR_NAMES - {"lost+found", "master", "names.views"}


def test_up_reads_every_byte_back_after_kill_9(start: Start, tmp_path: Path) -> None:
    options = ("--port", "0", "--data", str(tmp_path / "data"))
    process = start(*options)
    url = ready_url(process)
    for number in range(20):
        put(url, f"key/{number}", b"%d" % number * 100)
    process.kill()
    url = ready_url(start(*options))
    for number in range(20):
        assert get(url, f"key/{number}") == b"%d" % number * 100


def test_up_ends_when_a_process_of_it_is_killed(start: Start, tmp_path: Path) -> None:
    process = start("--port", "0", "--data", str(tmp_path / "data"))
    ready_url(process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children, "no background process: nothing to kill"
    children[0].kill()
    _, errors = process.communicate(timeout=TOGETHER_S)
    assert process.returncode == 3
    assert "stopping: " in errors


def test_up_killed_takes_its_processes_along(start: Start, tmp_path: Path) -> None:
    process = start("--port", "0", "--data", str(tmp_path / "data"))
    ready_url(process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert psutil.wait_procs(children, timeout=TOGETHER_S)[1] == []


def test_up_takes_its_settings_from_the_site_and_the_environment(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "app" / "config").mkdir(parents=True)
    (tmp_path / "app" / "config" / "server.conf").write_text(
        "[server]\nport = 1\n[volume]\ndir = here\nport = 9100\n"
    )
    process = start(PULZAR_SERVER_PORT="0")
    ready_url(process)
    process.terminate()
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert (tmp_path / "app" / "here" / "volume" / "volume.json").exists()
    assert f"data in {tmp_path}/app/here" in errors


def test_up_without_a_site_keeps_the_data_in_the_users_own_folder(
    start: Start, tmp_path: Path
) -> None:
    process = start("--port", "0")
    ready_url(process)
    process.terminate()
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert f"data in {tmp_path}/home/pulzar/storage" in errors
    assert (tmp_path / "home" / "pulzar" / "storage" / "volume" / "volume.json").exists()


def test_up_at_a_port_in_use_says_so(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = refused(start("--port", str(port), "--data", str(tmp_path / "data")))
    assert code == 6
    assert f"127.0.0.1:{port} is in use" in said
    assert "--port" in said


def test_up_at_an_address_of_another_machine_says_so(start: Start, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    code, said = refused(start("--host", "192.0.2.1", "--port", "0", "--data", data))
    assert code == 6
    assert "cannot listen at 192.0.2.1:0" in said


def test_up_that_cannot_say_that_it_is_ready_says_why(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*UP, "--port", "0", "--data", str(tmp_path / "data")],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment(XDG_DATA_HOME=str(tmp_path / "home")),
        check=False,
        timeout=DEADLINE_S,
    )
    os.close(writer)
    said = b"pulzar: the ready line cannot be printed: Broken pipe"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (6, said)


def test_up_on_data_in_use_says_so(start: Start, tmp_path: Path) -> None:
    options = ("--port", "0", "--data", str(tmp_path / "data"))
    url = ready_url(start(*options))
    code, said = refused(start(*options))
    assert code == 6
    assert "in use by another process" in said
    put(url, "a", b"the first one goes on")


def test_up_on_a_directory_of_somebody_else_changes_nothing(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "thesis.txt").write_text("mine")
    code, said = refused(start("--port", "0", "--data", str(data)))
    assert code == 6
    assert "holds other files" in said
    assert os.listdir(data) == ["thesis.txt"]


def test_up_on_the_volume_itself_says_which_directory(start: Start, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "volume.json").write_text("{}")
    code, said = refused(start("--port", "0", "--data", str(tmp_path / "volume")))
    assert code == 6
    assert "is a volume itself" in said


def test_up_on_a_file_says_so(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    code, said = refused(start("--port", "0", "--data", str(tmp_path / "data")))
    assert code == 6
    assert "is a file" in said


def test_up_where_nothing_can_be_written_says_so(start: Start) -> None:
    code, said = refused(start("--port", "0", "--data", "/proc/pulzar"))
    assert code == 6
    assert "cannot be written" in said


def test_up_on_data_of_a_newer_version_says_so(start: Start, tmp_path: Path) -> None:
    options = ("--port", "0", "--data", str(tmp_path / "data"))
    process = start(*options)
    ready_url(process)
    process.terminate()
    process.communicate(timeout=DEADLINE_S)
    identity = tmp_path / "data" / "volume" / "volume.json"
    identity.write_text(json.dumps(json.loads(identity.read_text()) | {"format": 99}))
    code, said = refused(start(*options))
    assert code == 6
    assert "format 99" in said


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--port", "x"), "--port: 'x' is no [server] port"),
        (("--host", "a b"), "--host"),
        (("--app", "missing"), "pulzar init missing"),
        (("--config", "missing"), "no such file"),
    ],
)
def test_up_with_a_wrong_setting_says_which(
    start: Start, options: tuple[str, ...], word: str
) -> None:
    code, said = refused(start(*options))
    assert code == 2
    assert word in said
