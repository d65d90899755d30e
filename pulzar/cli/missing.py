"""Which key is not there: the server says only that there is none."""

import contextlib
from collections.abc import Iterator

from pulzar.client.sync import Client
from pulzar.client.tree import as_directory
from pulzar.errors import KeyNotFound, UsageError


@contextlib.contextmanager
def naming(client: Client, key: str) -> Iterator[None]:
    """Name the key that the block does not find, and say where there are keys below it."""
    try:
        yield
    except KeyNotFound as error:
        prefix, is_above = as_directory(key), False
        with contextlib.suppress(UsageError):  # with its slash it may be too long to ask for
            is_above = bool(prefix) and next(client.list_keys(prefix), None) is not None
        hint = f"; there are keys under {prefix!r}: -r is for those" if is_above else ""
        raise KeyNotFound(f"there is no key {key!r}{hint}") from error
