"""`pulzar get` and `pulzar put` against a real server: what they write, keep, skip and refuse."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from pulzar.cli import pulzar
from pulzar.cli.exit import Answer, run
from pulzar.cli.transfer import Tally, report
from pulzar.client.process import Server
from pulzar.client.sync import Client
from pulzar.client.tree import Outcome, files_below

PROGRAM = [sys.executable, "-P", "-c", "from pulzar.cli import main; main()"]
WAIT_S = 20
LARGE = os.urandom(300_000)

Ran = tuple[int, str, str]
Pulzar = Callable[..., Ran]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Server(str(tmp_path_factory.mktemp("server") / "data")) as server:
        yield server.url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """An empty store."""
    with Client(url) as client:
        for item in list(client.list_keys()):
            client.delete(item.key)
        yield client


@pytest.fixture
def command(tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]) -> Pulzar:
    """Runs a command: its exit code, its stdout, its stderr."""

    def ran(*arguments: str) -> Ran:
        name, *rest = arguments
        cache = ["--cache", str(tmp_path / "cache")] if name in ("get", "put") else []
        code = run(pulzar, [name, *rest, "--master", url, *cache])
        output = capfd.readouterr()
        return code, output.out, output.err

    return ran


@pytest.fixture
def tree(client: Client, tmp_path: Path, command: Pulzar) -> Path:
    """Three files under t/ that were fetched once."""
    client.put("t/a", b"one")
    client.put("t/sub/b", b"two")
    client.put("t/large", LARGE)
    assert command("get", "t/", str(tmp_path / "tree"))[0] == 0
    return tmp_path / "tree"


def given(url: str) -> int:
    """The bytes of values that the server has given so far."""
    with urlopen(f"{url}/metrics", timeout=WAIT_S) as answer:
        lines = dict(line.decode().split(maxsplit=1) for line in answer if line[:1] != b"#")
    return int(float(lines["pulzar_http_sent_bytes_total"]))


def marks(tree: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file."""
    files = [path for path in tree.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


# One value: where it goes.


def test_a_pipe_is_written_into(client: Client, command: Pulzar, tmp_path: Path) -> None:
    client.put("k", LARGE)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    code, output, _ = command("get", "k", str(pipe))
    reader.join(WAIT_S)
    assert (code, output, received) == (0, "", [LARGE])
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_stdout_by_its_name_gets_the_value_and_nothing_else(
    client: Client, command: Pulzar
) -> None:
    client.put("k", b"value")
    assert command("get", "k", "/proc/self/fd/1") == (0, "value", "")


def test_a_link_is_followed_and_stays(client: Client, command: Pulzar, tmp_path: Path) -> None:
    client.put("k", b"new")
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("made")
    assert command("get", "k", str(tmp_path / "link"))[0] == 0
    assert command("get", "k", str(tmp_path / "dangling"))[0] == 0
    assert os.readlink(tmp_path / "link") == "file"
    assert os.readlink(tmp_path / "dangling") == "made"
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "made").read_bytes() == b"new"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_file_that_is_there_keeps_its_permissions(
    client: Client, command: Pulzar, tmp_path: Path, mode: int
) -> None:
    client.put("k", b"new")
    target = tmp_path / "file"
    target.write_bytes(b"old")
    target.chmod(mode)
    before = target.stat().st_ino
    assert command("get", "k", str(target))[0] == 0
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.stat().st_ino != before, "replaced as a whole"


def test_an_error_names_the_target_and_leaves_it(
    client: Client, command: Pulzar, tmp_path: Path
) -> None:
    client.put("k", b"new")
    (tmp_path / "file").write_bytes(b"old")
    code, _, said = command("get", "k", str(tmp_path / "file" / "below"))
    assert (code, said) == (6, f"pulzar: {tmp_path}/file/below: Not a directory\n")
    assert os.listdir(tmp_path) == ["file"]


def test_a_key_that_is_not_there_is_named(client: Client, command: Pulzar) -> None:
    client.put("a/b", b"")
    assert command("get", "a")[2] == (
        "pulzar: there is no key 'a'; there are keys under 'a/': -r is for those\n"
    )
    assert command("stat", "b") == (1, "", "pulzar: there is no key 'b'\n")


def test_a_key_with_a_slash_at_its_end_can_be_fetched(
    client: Client, command: Pulzar, tmp_path: Path
) -> None:
    client.put("trail/", b"value")
    (tmp_path / "file").write_bytes(b"")
    assert command("get", "trail/", "-")[:2] == (0, "value")
    assert command("get", "trail/", str(tmp_path / "file"))[0] == 0
    assert (tmp_path / "file").read_bytes() == b"value"
    code, _, said = command("get", "-r", "trail", str(tmp_path / "tree"))
    assert code == 1
    assert "pulzar get KEY -" in said


HALF = b'HTTP/1.1 200 OK\r\nETag: "0000010000000001"\r\nContent-Length: 9\r\n\r\nhalf'


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_takes_the_half_written_file_away(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        master = f"http://127.0.0.1:{server.getsockname()[1]}"
        get = [*PROGRAM, "get", "k", str(tmp_path / "file"), "--master", master]
        with subprocess.Popen(get, stderr=subprocess.PIPE) as process:
            connection = server.accept()[0]
            connection.recv(9999)
            connection.sendall(HALF)
            deadline = time.monotonic() + WAIT_S
            while not list(tmp_path.glob(".pulzar-*.part")):
                assert time.monotonic() < deadline
            process.send_signal(number)
            said = process.communicate(timeout=WAIT_S)[1]
            connection.close()
    assert process.returncode == code
    assert (said.strip(), os.listdir(tmp_path)) == (b"", [])


# Directories: what is there already.


def test_a_second_get_moves_nothing(tree: Path, command: Pulzar, url: str) -> None:
    before, sent = marks(tree), given(url)
    code, said, _ = command("get", "t/", str(tree))
    assert (code, said) == (0, "fetched: 0 (0 B), there already: 3, failed: 0\n")
    assert (marks(tree), given(url)) == (before, sent)


def test_without_a_memory_the_bytes_are_compared_and_the_files_left(
    tree: Path, command: Pulzar, tmp_path: Path, url: str
) -> None:
    (tmp_path / "cache" / "pulzar" / "transfers.db").unlink()
    before, sent = marks(tree), given(url)
    assert command("get", "t/", str(tree))[1].startswith("fetched: 0 (0 B), there already: 3")
    assert marks(tree) == before
    assert given(url) == sent + len(LARGE) + 6
    assert command("get", "t/", str(tree))[1].startswith("fetched: 0 (0 B), there already: 3")
    assert given(url) == sent + len(LARGE) + 6, "the comparison is remembered"


def test_a_directory_in_the_way_of_the_memory_is_no_failure(
    client: Client, command: Pulzar, tmp_path: Path
) -> None:
    client.put("t/a", b"one")
    (tmp_path / "cache").write_bytes(b"a file")
    for _ in range(2):
        assert command("get", "t/", str(tmp_path / "tree"))[0] == 0
    assert (tmp_path / "tree" / "a").read_bytes() == b"one"


def test_a_damaged_memory_is_made_anew(tree: Path, command: Pulzar, tmp_path: Path) -> None:
    (tmp_path / "cache" / "pulzar" / "transfers.db").write_bytes(b"no database at all" * 99)
    assert command("get", "t/", str(tree))[0] == 0


@pytest.mark.parametrize("at", [0, 150_000, 299_999])
def test_one_changed_byte_is_fetched_again_and_only_that_file(
    tree: Path, command: Pulzar, at: int, tmp_path: Path
) -> None:
    status = (tree / "large").stat()
    changed = bytearray(LARGE)
    changed[at] ^= 1
    for lost in (False, True):
        (tree / "large").write_bytes(changed)
        os.utime(tree / "large", ns=(status.st_atime_ns, status.st_mtime_ns))
        if lost:
            (tmp_path / "cache" / "pulzar" / "transfers.db").unlink()
        _, said, _ = command("get", "t/", str(tree))
        assert said == "fetched: 1 (293.0 KiB), there already: 2, failed: 0\n"
        assert (tree / "large").read_bytes() == LARGE


def test_a_value_that_was_replaced_by_one_of_its_size_is_fetched(
    tree: Path, client: Client, command: Pulzar
) -> None:
    client.put("t/a", b"two")
    assert command("get", "t/", str(tree))[1].startswith("fetched: 1 (3 B), there already: 2")
    assert (tree / "a").read_bytes() == b"two"
    client.put("t/a", b"two")
    before = marks(tree)
    assert command("get", "t/", str(tree))[1].startswith("fetched: 0 (0 B), there already: 3")
    assert marks(tree) == before


def test_what_is_no_file_and_what_leads_out_is_left_as_it_is(
    client: Client, command: Pulzar, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tmp_path / "outside").write_bytes(b"old")
    os.mkfifo(tree / "pipe")
    (tree / "out").symlink_to("../outside")
    (tree / "in").symlink_to("real")
    for name in ("pipe", "out", "in"):
        client.put(f"t/{name}", b"new")
    code, _, said = command("get", "t/", str(tree))
    assert code == 1
    assert "is there and is no file" in said
    assert "leads" in said
    assert (tmp_path / "outside").read_bytes() == b"old"
    assert stat.S_ISFIFO((tree / "pipe").stat().st_mode)
    assert (tree / "real").read_bytes() == b"new"


def test_everything_needs_a_directory_by_name(client: Client, command: Pulzar) -> None:
    client.put("a", b"")
    code, _, said = command("get", "-r", "")
    assert code == 2
    assert "name the directory" in said


def test_a_second_put_asks_for_no_value_and_a_get_of_it_neither(
    client: Client, command: Pulzar, tmp_path: Path, url: str
) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_bytes(b"one")
    (source / "sub" / "large").write_bytes(LARGE)
    sent = given(url)
    assert command("put", str(source), "t")[1].startswith("stored: 2 (293.0 KiB), there already: 0")
    assert command("put", str(source), "t")[1].startswith("stored: 0 (0 B), there already: 2")
    assert command("get", "t/", str(source))[1].startswith("fetched: 0 (0 B), there already: 2")
    assert given(url) == sent
    client.put("t/a", b"eno")
    assert command("put", str(source), "t")[1].startswith("stored: 1 (3 B), there already: 1")
    assert client.get("t/a") == b"one"


def test_an_empty_cache_remembers_nothing(
    client: Client, tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    client.put("t/a", LARGE)
    get = ["get", "t/", str(tmp_path / "tree"), "--master", url, "--cache", ""]
    sent = given(url)
    assert [run(pulzar, get), run(pulzar, get)] == [0, 0]
    assert given(url) == sent + 2 * len(LARGE)
    assert "there already: 1" in capfd.readouterr().out


# Putting what is not so plain.


def test_a_file_that_claims_no_size_is_read_to_its_end(client: Client, command: Pulzar) -> None:
    assert command("put", "/proc/version", "version")[0] == 0
    assert client.get("version") == Path("/proc/version").read_bytes() != b""


def test_a_directory_with_bad_names_and_links_is_stored_as_far_as_it_goes(
    client: Client, command: Pulzar, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a\nb").write_bytes(b"1")
    (source / "good").write_bytes(b"2")
    for number in range(15):
        (source / f"link{number:02}").symlink_to(".")
    code, output, said = command("put", str(source), "t")
    assert (code, output) == (1, "stored: 1 (1 B), there already: 0, left out: 15, failed: 1\n")
    assert "t/a\\nb: the key has a control character" in said
    assert said.count("left out") == 11


def test_a_directory_that_cannot_be_read_does_not_end_the_walk(tmp_path: Path) -> None:
    for name in ("gone", "later"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"")
    (tmp_path / "first").write_bytes(b"")
    errors: list[OSError] = []
    walk = files_below(str(tmp_path), on_other=lambda _: None, on_error=errors.append)
    found = [next(walk)]
    shutil.rmtree(tmp_path / "gone")  # root can read whatever is there
    assert [*found, *walk] == ["first", "later/file"]
    assert [error.filename for error in errors] == [str(tmp_path / "gone")]
    with pytest.raises(FileNotFoundError):
        list(files_below(str(tmp_path / "gone"), on_other=lambda _: None, on_error=errors.append))


def test_a_directory_that_cannot_be_read_is_counted_as_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tally = Tally(as_json=False)
    tally.add(Outcome("", "source/closed", error="source/closed: Permission denied"))
    with pytest.raises(Answer):
        report([], tally, done="stored", as_json=False)
    assert capsys.readouterr() == (
        "stored: 0 (0 B), there already: 0, failed: 1\n",
        "pulzar: source/closed: Permission denied\n",
    )


# Streams that are not there.


def shell(text: str, url: str, where: Path) -> tuple[int, str]:
    """The exit code and the stderr of `pulzar` in a line of sh, where it is $0 with `$@`."""
    done = subprocess.run(
        ["sh", "-c", text, *PROGRAM],
        cwd=where,
        env=os.environ | {"PULZAR_MASTER": url},
        capture_output=True,
        check=False,
        timeout=WAIT_S,
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ('exec "$0" "$@" ls >&-', 6, "standard output is closed"),
        ('exec "$0" "$@" get a >&-', 6, "standard output is closed"),
        ('exec "$0" "$@" put - k <&-', 6, "standard input is closed"),
        ('exec "$0" "$@" put - k --content-type \'a\nb\' </dev/null', 2, "printable ASCII"),
        ('ulimit -f 0; exec "$0" "$@" get a >out', 6, "File too large"),
    ],
)
def test_a_stream_that_is_not_there_is_one_sentence(
    client: Client, url: str, tmp_path: Path, line: str, code: int, said: str
) -> None:
    client.put("a", b"value")
    ended, errors = shell(line, url, tmp_path)
    assert ended == code
    assert said in errors
    assert errors.count("\n") == 1


def test_ctrl_c_while_it_starts_leaves_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import pulzar.cli; raise KeyboardInterrupt"],
        capture_output=True,
        check=False,
        timeout=WAIT_S,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_a_list_has_one_line_per_key_however_long(client: Client, command: Pulzar) -> None:
    key = "k" * 480
    client.put(key, b"value", ttl="1h")
    assert command("ls") == (0, key + "\n", "")
    _, output, _ = command("ls", "-l")
    cells = output.removesuffix("\n").split("\t")
    assert cells[:2] == [key, "5"]
    assert [cells[2][-1], cells[4][-1]] == ["Z", "Z"]
