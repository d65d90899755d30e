"""Ctrl-C while Pulzar is still being imported: no traceback, for nothing has gone wrong.

Python ends a process by SIGINT where KeyboardInterrupt reached its top, which a shell calls 130.
"""

import sys
from types import TracebackType


def quiet(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """An excepthook that says nothing about KeyboardInterrupt."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
