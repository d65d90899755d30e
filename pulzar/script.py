"""A script: a file of Python with a function `execute`, loaded and called in a child process."""

import ast
import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pulzar.limits import TRACEBACK_CHARACTERS_MAX


def load(path: str, name: str) -> Callable[..., Any] | None:
    """Import a script as the module `name`: its function `execute`; None, and nothing is imported,
    where it has none. Raises whatever the script does."""
    with open(path, "rb") as file:
        tree = ast.parse(file.read(), path)
    if "execute" not in _names(tree):
        return None
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


def failed(error: BaseException, directory: str) -> dict[str, str]:
    """What went wrong, as its author would see it: from the first call in `directory` on."""
    walked = error.__traceback__
    while walked is not None and not walked.tb_frame.f_code.co_filename.startswith(directory):
        walked = walked.tb_next
    lines = traceback.format_exception(type(error), error, walked)
    text = "".join(lines).replace(directory + os.sep, "")
    summary = traceback.format_exception_only(type(error), error)[-1].strip()
    return {
        "error": summary[:1000],
        "traceback": text[-TRACEBACK_CHARACTERS_MAX:],
    }


def flush() -> None:
    """Let what a script wrote be read by the parent."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the script closed it
            continue


def tidy(environment: dict[str, str]) -> None:
    """Undo what a script did to the process, as far as that is a matter of course."""
    os.environ.clear()
    os.environ.update(environment)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.chdir("/")
