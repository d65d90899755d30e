"""A child process that runs extensions: one call after the other, in a warm interpreter.

    server -> child   {"directory", "name", "arguments", "params", "body", "master", "base"}
    child -> server   {"output"}, JSON as text, or {"error", "traceback"}, or {"refused"}

`execute` gets as many of arguments, params, body as it takes. A text that is JSON is sent as it is;
anything else that JSON can hold is encoded. Only the standard library is imported here; what an
extension needs of Pulzar it imports itself (`pulzar.extension`).
"""

import asyncio
import inspect
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from pulzar.limits import EXTENSION_NICE, EXTENSION_OUTPUT_BYTES_MAX
from pulzar.parent import adopt_orphans
from pulzar.pipes import Frame, begin
from pulzar.script import failed, flush, load, tidy

_ASKED_MAX = 3  # arguments, params, body

current: Frame | None = None
"""What is called now; `pulzar.extension` speaks for it."""


class BadInput(Exception):
    """What an extension was asked makes no sense, in one sentence: the client is answered 400."""


class Unfit(Exception):
    """What an extension is, or gave back, is not what it has to be."""


def main() -> None:
    """Answer calls until the server closes its pipe."""
    global current  # noqa: PLW0603 - a child answers one call at a time, and pulzar.extension asks
    adopt_orphans()
    os.nice(EXTENSION_NICE)  # the store comes first
    pipes = begin()
    os.chdir("/")
    environment = dict(os.environ)
    loaded: dict[tuple[str, str], tuple[Callable[..., Any], int]] = {}
    while (frame := pipes.read()) is not None:
        current = frame
        answer = _answer(frame, loaded)
        current = None
        flush()
        tidy(environment)
        pipes.write(answer)


def _answer(
    frame: Frame, loaded: dict[tuple[str, str], tuple[Callable[..., Any], int]]
) -> dict[str, str]:
    directory, name = frame["directory"], frame["name"]
    try:
        if (directory, name) not in loaded:
            loaded[directory, name] = _load(directory, name)
        execute, asked = loaded[directory, name]
        output = execute(*(frame["arguments"], frame["params"], frame["body"])[:asked])
        if inspect.iscoroutine(output):
            output = asyncio.run(output)
        return {"output": _encoded(output)}
    except BadInput as error:
        return {"refused": str(error)}
    except Unfit as error:
        return {"error": str(error), "traceback": ""}
    except SystemExit as ended:
        return {"error": f"it called sys.exit({ended.code!r})", "traceback": ""}
    except BaseException as error:  # whatever an extension does is its own failure
        return failed(error, directory)


def _load(directory: str, name: str) -> tuple[Callable[..., Any], int]:
    """The function of an extension, and how many of its three arguments it takes."""
    if directory not in sys.path:
        sys.path.append(directory)
    path = os.path.join(directory, f"{name}.py")
    execute = load(path, f"pulzar_extension_{name.replace('-', '_')}")
    if not callable(execute):
        raise Unfit(f"{name}.py has no function execute(arguments)")
    return execute, _asked(execute)


def _asked(execute: Callable[..., Any]) -> int:
    kinds = [parameter.kind for parameter in inspect.signature(execute).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return _ASKED_MAX
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(_ASKED_MAX, sum(kind in positional for kind in kinds))


def _encoded(output: object) -> str:
    """What execute gave back, as JSON. Raises Unfit."""
    try:
        if isinstance(output, str) and _is_json(output):
            text = output
        else:
            text = json.dumps(output, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unfit(f"execute gave back what JSON cannot hold: {error}") from None
    if len(text) > EXTENSION_OUTPUT_BYTES_MAX:
        raise Unfit(
            f"the answer has {len(text)} bytes, {EXTENSION_OUTPUT_BYTES_MAX} are allowed: "
            "keep it under a key, and give back that"
        )
    return text


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
