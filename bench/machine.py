"""What this machine is, for the head of RESULTS.md, and what one fdatasync costs on it."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

import psutil

SYNC_BYTES = 1152  # a 1 KiB value with its key and header
TMPFS = frozenset({"tmpfs", "ramfs"})


def filesystem(directory: Path, mounts: str | None = None) -> tuple[str, str]:
    """Type and options of the filesystem that holds `directory`."""
    text = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    where = str(directory.resolve())
    found = ("unknown", "")
    longest = 0
    for entry in text.splitlines():
        _, point, kind, options, *_ = entry.split()
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            found, longest = (kind, options), len(point)
    return found


def processor() -> str:
    """The model of the processor, where the system says so."""
    for entry in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, text = entry.partition(":")
        if name.strip() == "model name":
            return text.strip()
    return platform.machine()


def first_line(*command: str) -> str:
    """The first line that a command prints (nginx prints its version on stderr)."""
    if shutil.which(command[0]) is None:
        return "not installed"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().partition("\n")[0]


def commit(directory: Path) -> str:
    """The commit that is measured, and whether the tree has changes on top of it."""
    if shutil.which("git") is None or not (directory / ".git").exists():
        return "not a git checkout"
    head = first_line("git", "-C", str(directory), "rev-parse", "--short=12", "HEAD")
    status = ("git", "-C", str(directory), "status", "--porcelain", "--untracked-files=no")
    return head + (" with changes" if first_line(*status) else "")


def fdatasync_s(directory: Path, count: int) -> float:
    """The mean time of one append of 1.1 KiB and its fdatasync, in a preallocated file.

    This is what the engine itself does for one write alone, and the least that any durable
    write on this filesystem costs.
    """
    path = directory / "fdatasync.probe"
    block = os.urandom(SYNC_BYTES)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.posix_fallocate(file, 0, SYNC_BYTES * (count + 1))
        os.fsync(file)
        begun = time.monotonic()
        for n in range(count):
            os.pwrite(file, block, n * SYNC_BYTES)
            os.fdatasync(file)
        return (time.monotonic() - begun) / count
    finally:
        os.close(file)
        path.unlink()


def facts(directory: Path, checkout: Path) -> list[tuple[str, str]]:
    """Everything about this machine that a figure depends on."""
    kind, options = filesystem(directory)
    memory_gib = psutil.virtual_memory().total / 2**30
    packages = ("granian", "lmdb", "uvloop", "google-crc32c", "msgspec")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return [
        ("date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
        ("processor", f"{processor()}, {os.cpu_count()} cores, shared with the load generator"),
        ("memory", f"{memory_gib:.0f} GiB"),
        ("system", f"{platform.system()} {platform.release()}"),
        ("filesystem", f"{kind} ({options})"),
        ("one fdatasync", f"{fdatasync_s(directory, 500) * 1e6:,.0f} microseconds"),
        ("Python", f"{platform.python_version()}, {platform.python_compiler()}"),
        ("Pulzar", f"{importlib.metadata.version('pulzar')}, commit {commit(checkout)}"),
        ("with", versions),
        ("nginx", first_line("nginx", "-v")),
        ("etcd", first_line("etcd", "--version")),
    ]
