"""`pulzar up`: everything on one machine, in one command."""

import click
import uvloop

from pulzar.cli.options import app_option, config_option, third_party_option
from pulzar.cli.ready import say_ready
from pulzar.clock import SystemClock
from pulzar.config import load
from pulzar.disk import SystemDisk
from pulzar.program import configure_log, run


@click.command("up")
@app_option
@config_option
@click.option(
    "--data",
    metavar="DIR",
    help="Where to store the data. Default: storage in the site's folder.",
)
@click.option(
    "--jobs",
    metavar="DIR",
    help="Where the scripts are that jobs run. Default: jobs in the site's folder.",
)
@third_party_option
@click.option("--host", help="The address to answer at. Default: 127.0.0.1.")
@click.option("--port", help="The port to answer at; 0 takes a free one. Default: 9000.")
def command(
    app: str | None,
    config: str | None,
    data: str | None,
    jobs: str | None,
    third_party: str | None,
    host: str | None,
    port: str | None,
) -> None:
    """Start Pulzar on this machine.

    Prints `pulzar: ready at URL` on stdout once it answers, and nothing else; the log goes to
    stderr. Ctrl-C or SIGTERM stops it. Every option stands before the environment
    (PULZAR_SERVER_PORT) and that before server.conf; `pulzar config` explains.
    """
    disk = SystemDisk()
    flags = {
        "data_dir": data,
        "jobs_dir": jobs,
        "third_party_dir": third_party,
        "host": host,
        "port": port,
    }
    settings = load(disk, app=app, file=config, flags=flags)
    configure_log(settings.log_level)
    uvloop.run(run(settings, disk=disk, clock=SystemClock(), on_ready=say_ready))
