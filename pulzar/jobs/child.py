"""A child process: runs one job after the other, in an interpreter that stays warm.

    agent -> child   {"path", "script", "arguments", "job", "attempt", "work", "master"}
    child -> agent   {"progress", "note"}, any number of them
                     {"event": "succeed", "output"} or {"event": "fail", "error", "traceback"}

Frames are JSON behind their length (u32, big endian), on two pipes that scripts do not know of.
stdout and stderr lead to the agent. Nothing but the standard library is imported here: a child is
to be there in a few milliseconds.

A script with a function `execute` is imported once and called; another one is run as a program,
with its arguments in PULZAR_ARGUMENTS. What JSON cannot hold is no output. The directory of the
script comes last in sys.path: a module of the standard library is never shadowed by a file in it.
"""

import ast
import asyncio
import importlib.util
import inspect
import json
import os
import resource
import runpy
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, BinaryIO

from pulzar.limits import JOB_OUTPUT_BYTES_MAX, JOB_TRACEBACK_CHARACTERS_MAX
from pulzar.parent import die_with_parent

LENGTH = struct.Struct(">I")
PIPES = "PULZAR_CHILD"
ARGUMENTS = "PULZAR_ARGUMENTS"

Frame = dict[str, Any]


class Pipes:
    """The two pipes to the agent."""

    def __init__(self, source: BinaryIO, target: BinaryIO) -> None:
        self._source = source
        self._target = target
        self._lock = threading.Lock()

    def read(self) -> Frame | None:
        """The next frame; None when the agent has gone."""
        head = self._source.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        frame: Frame = json.loads(self._source.read(LENGTH.unpack(head)[0]))
        return frame

    def write(self, frame: Frame) -> None:
        """Send a frame; from any thread of the script."""
        content = json.dumps(frame).encode()
        with self._lock:
            self._target.write(LENGTH.pack(len(content)) + content)
            self._target.flush()


class Attempt:
    """What runs now; `pulzar.job` speaks for it."""

    def __init__(self, frame: Frame, pipes: Pipes) -> None:
        self.job: int = frame["job"]
        self.attempt: int = frame["attempt"]
        self.master: str = frame["master"]
        self.work: str = frame["work"]
        self._pipes = pipes

    def tell(self, progress: float, note: str) -> None:
        """Say how far it is."""
        self._pipes.write({"progress": progress, "note": note})


current: Attempt | None = None


def main() -> None:
    """Run jobs until the agent closes its pipe."""
    die_with_parent()
    source, target, memory = (int(number) for number in os.environ.pop(PIPES).split(","))
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    for number in (source, target):
        os.set_inheritable(number, False)
    pipes = Pipes(os.fdopen(source, "rb"), os.fdopen(target, "wb"))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    environment = dict(os.environ)
    loaded: dict[str, Callable[..., Any] | None] = {}
    while (frame := pipes.read()) is not None:
        answer = _run(frame, pipes, loaded)
        _flush()
        pipes.write(answer)
        _tidy(environment)


def _run(frame: Frame, pipes: Pipes, loaded: dict[str, Callable[..., Any] | None]) -> Frame:
    """One job."""
    global current  # noqa: PLW0603 - a child runs one job at a time, and pulzar.job asks here
    current = Attempt(frame, pipes)
    path = os.path.join(frame["path"], f"{frame['script']}.py")
    try:
        os.chdir(frame["work"])
        if frame["path"] not in sys.path:
            sys.path.append(frame["path"])
        if path not in loaded:
            loaded[path] = _execute_of(path, frame["script"])
        execute = loaded[path]
        if execute is None:
            os.environ[ARGUMENTS] = frame["arguments"]
            sys.argv = [path]
            runpy.run_path(path, run_name="__main__")
            output = None
        else:
            output = execute(json.loads(frame["arguments"]))
            if inspect.iscoroutine(output):
                output = asyncio.run(output)
        return _succeeded(output)
    except SystemExit as ended:
        if ended.code in (None, 0):
            return _succeeded(None)
        return {"event": "fail", "error": f"exit status {ended.code}", "traceback": ""}
    except BaseException as error:  # whatever a script does is its own failure
        return _failed(error, frame["path"])
    finally:
        current = None


def _execute_of(path: str, script: str) -> Callable[..., Any] | None:
    """The function `execute` of a script; None for a script that is a program."""
    with open(path, "rb") as file:
        tree = ast.parse(file.read(), path)
    if "execute" not in _names(tree):
        return None
    name = f"pulzar_script_{script.replace('-', '_')}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    execute: Callable[..., Any] = module.execute
    return execute


def _names(tree: ast.Module) -> set[str]:
    """What a module defines, imports or assigns at its top."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _succeeded(output: object) -> Frame:
    try:
        text = json.dumps(output, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        reason = f"execute gave back what JSON cannot hold: {error}"
        return {"event": "fail", "error": reason, "traceback": ""}
    if len(text) > JOB_OUTPUT_BYTES_MAX:
        reason = (
            f"the output has {len(text)} bytes as JSON, {JOB_OUTPUT_BYTES_MAX} are allowed: "
            "keep it with job.put, and give back its key"
        )
        return {"event": "fail", "error": reason, "traceback": ""}
    return {"event": "succeed", "output": text}


def _failed(error: BaseException, directory: str) -> Frame:
    """What went wrong, as the script's author would see it: from the first frame of a script on."""
    walked = error.__traceback__
    while walked is not None and not walked.tb_frame.f_code.co_filename.startswith(directory):
        walked = walked.tb_next
    lines = traceback.format_exception(type(error), error, walked)
    text = "".join(lines).replace(directory + os.sep, "")
    summary = traceback.format_exception_only(type(error), error)[-1].strip()
    return {
        "event": "fail",
        "error": summary[:1000],
        "traceback": text[-JOB_TRACEBACK_CHARACTERS_MAX:],
    }


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the script closed it
            continue


def _tidy(environment: dict[str, str]) -> None:
    """Undo what a script did to the process, as far as that is a matter of course."""
    os.environ.clear()
    os.environ.update(environment)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.chdir("/")
