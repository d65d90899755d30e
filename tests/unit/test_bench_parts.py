"""The parts of the benchmark that read what a system or the generator says."""

from pathlib import Path

import pytest

from bench.__main__ import chosen
from bench.context import Row
from bench.generator import Load, arguments, checked
from bench.generator import Report as GeneratorReport
from bench.machine import fdatasync_s, filesystem
from bench.memory import counted_kib, memory_mib
from bench.rows import ROWS
from bench.rows.small_values import rotated
from bench.servers import BenchError, Nginx, Pulzar

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
tmpfs /dev/shm tmpfs rw 0 0
/dev/vdb /data xfs rw,noatime 0 0
"""
SMAPS_ROLLUP = """\
00400000-7ffd00000000 ---p 00000000 00:00 0                              [rollup]
Rss:               90000 kB
Pss:               70000 kB
Pss_Dirty:         20000 kB
Pss_Anon:          20480 kB
Pss_File:          48000 kB
Pss_Shmem:          1024 kB
"""


def server_report(**changes: object) -> GeneratorReport:
    numbers: dict[str, object] = dict.fromkeys(GeneratorReport.__struct_fields__, 1)
    numbers |= {"failed": 0, "statuses": {"200": 1}} | changes
    return GeneratorReport(**numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("directory", "kind"),
    [("/data/x", "xfs"), ("/database", "ext4"), ("/dev/shm", "tmpfs"), ("/", "ext4")],
)
def test_filesystem_is_that_of_the_innermost_mount(directory: str, kind: str) -> None:
    assert filesystem(Path(directory), MOUNTS)[0] == kind


def test_memory_counts_anonymous_and_shared_but_no_page_cache() -> None:
    assert counted_kib(SMAPS_ROLLUP) == 20480 + 1024


def test_memory_of_a_server_that_does_not_run_is_nothing(tmp_path: Path) -> None:
    assert memory_mib(Nginx(tmp_path / "nginx")) == 0.0


def test_fdatasync_leaves_nothing_behind(tmp_path: Path) -> None:
    assert fdatasync_s(tmp_path, 2) > 0
    assert list(tmp_path.iterdir()) == []


def test_generator_arguments_follow_the_server(tmp_path: Path) -> None:
    pulzar = Pulzar(tmp_path / "p", ["pulzar"])
    one = arguments(Load(op="put", keys=7), pulzar)
    assert one[one.index("-f") + 1] == "/add_key/%s"
    assert one[one.index("-m") + 1] == "raw"
    many = arguments(Load(op="put", keys=7, batch=500), pulzar)
    assert many[many.index("-f") + 1] == "/batch"
    assert many[many.index("-m") + 1] == "batch"


@pytest.mark.parametrize("changes", [{"failed": 1}, {"ok": 0}])
def test_a_run_with_failures_is_no_rate(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(BenchError, match=r"nginx: .* operations failed"):
        checked(server_report(**changes), Nginx(tmp_path / "nginx"))


def test_servers_take_turns_at_being_first(tmp_path: Path) -> None:
    servers = [Nginx(tmp_path / name) for name in "abc"]
    firsts = [rotated(servers, n)[0] for n in range(4)]
    assert firsts == [servers[0], servers[1], servers[2], servers[0]]


def test_large_rows_are_left_out_unless_asked_for() -> None:
    large = {row.name for row in ROWS if row.large}
    assert large
    assert not large & {row.name for row in chosen(ROWS, only=None, large=False)}
    assert chosen(ROWS, only=None, large=True) == list(ROWS)


def test_every_row_can_run_alone() -> None:
    for row in ROWS:
        assert chosen(ROWS, only=row.name, large=False) == [row]


def test_unknown_row_is_named_with_those_that_exist() -> None:
    rows: list[Row] = list(ROWS)
    with pytest.raises(ValueError, match=r"'puts'; there are put, get"):
        chosen(rows, only="put,puts", large=False)
