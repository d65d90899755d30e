"""The command line: `pulzar COMMAND`, one file per command in this package.

COMMANDS is the registry. A command NAME lives in `pulzar/cli/NAME.py` as a click command called
`command`, and is imported only when it is used, so that `pulzar get` does not pay for what
`pulzar up` needs. The one-line helps stand here for the same reason: `pulzar --help` imports no
command at all; a test holds them equal to the commands' own.

`main` is the only place that turns an error into a message and an exit code (`exit.py`).
"""

import sys

from pulzar.cli import interrupt

sys.excepthook = interrupt.quiet  # before what takes long to import

import difflib  # noqa: E402
import importlib  # noqa: E402

import click  # noqa: E402

from pulzar.cli.exit import EXIT_CODES, run  # noqa: E402

COMMANDS = {
    "up": "Start Pulzar on this machine.",
    "master": "Start the master of a cluster on this machine.",
    "volume": "Start a volume of a cluster on this machine.",
    "init": "Make a site folder: settings, jobs, extensions.",
    "config": "Show the settings that hold, and where each comes from.",
    "put": "Store a file, a directory or standard input.",
    "get": "Fetch a key, or everything under a prefix.",
    "rm": "Delete keys.",
    "ls": "List keys.",
    "stat": "Show what is known of a key.",
    "watch": "Show what happens to the keys under a prefix, as it happens.",
    "compact": "Give back the space of replaced and deleted values.",
    "check": "Read every byte of a volume and report damage.",
    "rebuild": "Make the views of a volume anew from its log.",
    "inspect": "Show what is in a volume, record by record.",
    "cluster": "Show a cluster's volumes; drain or remove one.",
    "job": "Launch jobs, and see what becomes of them.",
    "backup": "Make, list, verify and prune backups of a cluster.",
    "restore": "Restore a master from its volumes, or a cluster from a backup.",
    "demo": "See it work, on real files; ends by itself.",
    "torture": "Kill a server again and again and verify what it kept.",
}

EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code.number:<4}{code.meaning}" for code in EXIT_CODES)


class Registry(click.Group):
    """A group that imports a command when it is asked for it, and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(f"pulzar.cli.{cmd_name}").command
        if not isinstance(found, click.Command):
            raise TypeError(f"pulzar.cli.{cmd_name}.command is not a click command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Registry,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="pulzar", message="pulzar %(version)s")
def pulzar() -> None:
    """A few machines become one place to keep data and to run Python next to it.

    `pulzar up` starts it; `pulzar put FILE KEY` and `pulzar get KEY` use it, and so does curl.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process."""
    sys.exit(run(pulzar, arguments))
