"""What a command's end means to the script that called it: one table, one mapping.

An error becomes one line on stderr, `pulzar: what is wrong and what to do`, and one of
EXIT_CODES. A command raises what it meets (PulzarError, OSError, click's own) and never exits
by itself, except through `Answer`, for a "no" that is no error.
"""

import contextlib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from types import FrameType

import click
import msgspec

from pulzar.errors import (
    ConditionFailed,
    Conflict,
    Damage,
    ExtensionFailed,
    ExtensionNotFound,
    ExtensionTimeout,
    Forbidden,
    HistoryTrimmed,
    JobNotFound,
    KeyNotFound,
    MemberRefused,
    NodeNotFound,
    OpenError,
    OutOfSpace,
    RangeNotSatisfiable,
    ScriptNotFound,
    Unavailable,
    UsageError,
)


class ExitCode(msgspec.Struct, frozen=True):
    """An exit code, what it means, and the errors that end in it (the first match counts)."""

    number: int
    meaning: str
    errors: tuple[type[BaseException], ...] = ()


class Answer(Exception):
    """The command has said all there is to say and ends with this exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


OK = 0
NO = 1
USAGE = 2
UNAVAILABLE = 3
NO_SPACE = 4
DAMAGED = 5
CANNOT_OPEN = 6
BUG = 70
INTERRUPTED = 130
PIPE_CLOSED = 141
TERMINATED = 143

EXIT_CODES = (
    ExitCode(OK, "done"),
    ExitCode(
        NO,
        "the answer is no: no such key or job, a condition that does not hold, some of many failed",
        (
            KeyNotFound,
            ConditionFailed,
            HistoryTrimmed,
            NodeNotFound,
            ScriptNotFound,
            JobNotFound,
            ExtensionNotFound,
            ExtensionFailed,
            ExtensionTimeout,
            Conflict,
            MemberRefused,
            Forbidden,
        ),
    ),
    ExitCode(
        USAGE,
        "wrong use: an option, a key, a setting; nothing was changed",
        (UsageError, RangeNotSatisfiable, click.UsageError),
    ),
    ExitCode(
        UNAVAILABLE,
        "cannot be answered now: no server there, or not ready; try again",
        (Unavailable, ConnectionRefusedError),
    ),
    ExitCode(NO_SPACE, "no space left", (OutOfSpace,)),
    ExitCode(DAMAGED, "damaged: bytes on disk fail their checksum", (Damage,)),
    ExitCode(
        CANNOT_OPEN,
        "a file, a directory or a port cannot be opened",
        (OpenError, click.FileError, OSError),
    ),
    ExitCode(BUG, "a bug in Pulzar; what it left on stderr helps to find it"),
    ExitCode(INTERRUPTED, "interrupted by Ctrl-C", (KeyboardInterrupt, click.Abort)),
    ExitCode(PIPE_CLOSED, "nobody reads the output any more", (BrokenPipeError,)),
    ExitCode(TERMINATED, "ended by SIGTERM, with nothing half done left behind"),
)


def exit_code(error: BaseException) -> int:
    """The exit code of an error; BUG for one that no code names."""
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NO_SPACE
    for code in EXIT_CODES:
        if isinstance(error, code.errors):
            return code.number
    return BUG


def message(error: BaseException) -> str:
    """The error in one line."""
    if isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        text = f"{name}: {error.strerror}" if name else error.strerror
    else:
        text = str(error) or type(error).__name__
    # What was made of an error of the system has its number and its name behind its reason.
    text = re.sub(r"\[Errno -?\d+\] ([^:]+): '([^']*)'", r"\2: \1", text)
    return " ".join(re.sub(r"\[Errno -?\d+\] ", "", text).split())


@contextlib.contextmanager
def ends_at_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that it takes away what it has half done."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(group: click.Command, arguments: list[str] | None) -> int:
    """Run a command and return its exit code, with the message of an error on stderr."""
    code = _run(group, arguments)
    if sys.stdout is None:  # closed by whoever started us
        return code
    is_lost = code == PIPE_CLOSED
    try:
        sys.stdout.flush()
    except OSError as error:
        code, is_lost = code or _said(error), True
    if is_lost:
        # Python flushes stdout once more when it ends; there is nothing left to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(group: click.Command, arguments: list[str] | None) -> int:
    try:
        result = group.main(arguments, prog_name="pulzar", standalone_mode=False)
        return result if isinstance(result, int) else OK
    except Answer as answer:
        return answer.number
    except SystemExit as end:
        if end.code == TERMINATED:
            return TERMINATED
        # click ends by itself only at a closed pipe, with 1, and after it completed a word.
        return PIPE_CLOSED if end.code == 1 else OK
    except click.UsageError as error:
        error.show()
        return USAGE
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except Exception as error:  # the last stop: every error becomes a message and a code
        return _said(error)


def _said(error: Exception) -> int:
    """The exit code of an error, once its message is on stderr."""
    code = exit_code(error)
    if code == BUG:
        traceback.print_exc()
    if code != PIPE_CLOSED:
        click.echo(f"pulzar: {message(error)}", err=True)
    return code
