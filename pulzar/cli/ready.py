"""The one line that a server prints on stdout."""

import click

from pulzar.errors import OpenError


def say_ready(url: str) -> None:
    """`pulzar: ready at URL`. Raises OpenError where nobody can read it."""
    try:
        click.echo(f"pulzar: ready at {url}")
    except OSError as error:  # no fault of the address that it listens at
        raise OpenError(f"the ready line cannot be printed: {error.strerror}") from error
