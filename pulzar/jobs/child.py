"""A child process: runs one job after the other, in an interpreter that stays warm.

    agent -> child   {"path", "script", "arguments", "job", "attempt", "work", "master"}
    child -> agent   {"progress", "note"}, any number of them
                     {"event": "succeed", "output"} or {"event": "fail", "error", "traceback"}

Frames travel on two pipes (pipes.py); stdout and stderr lead to the agent. Nothing but the standard
library is imported here: a child is to be there in a few milliseconds.

A script with a function `execute` is imported once and called; another one is run as a program,
with its arguments in PULZAR_ARGUMENTS. What JSON cannot hold is no output. The directory of the
script comes last in sys.path: a module of the standard library is never shadowed by a file in it.
"""

import asyncio
import inspect
import json
import os
import runpy
import sys
from collections.abc import Callable
from typing import Any

from pulzar.limits import JOB_OUTPUT_BYTES_MAX
from pulzar.pipes import Frame, Pipes, begin
from pulzar.script import failed, flush, load, tidy

ARGUMENTS = "PULZAR_ARGUMENTS"


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
    pipes = begin()
    environment = dict(os.environ)
    loaded: dict[str, Callable[..., Any] | None] = {}
    while (frame := pipes.read()) is not None:
        answer = _run(frame, pipes, loaded)
        flush()
        pipes.write(answer)
        tidy(environment)


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
            loaded[path] = load(path, f"pulzar_script_{frame['script'].replace('-', '_')}")
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
        return {"event": "fail", **failed(error, frame["path"])}
    finally:
        current = None


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
