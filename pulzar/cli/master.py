"""`pulzar master`: the master of volumes that are programs of their own."""

import click
import uvloop

from pulzar.cli.options import app_option, config_option, third_party_option
from pulzar.cli.ready import say_ready
from pulzar.clock import SystemClock
from pulzar.config import load
from pulzar.disk import SystemDisk
from pulzar.program import configure_log, run_master


@click.command("master")
@app_option
@config_option
@click.option(
    "--data",
    metavar="DIR",
    help="Where to keep cluster.key and the catalog. Default: storage/master in the site's folder.",
)
@click.option(
    "--jobs",
    metavar="DIR",
    help="Where the scripts are that jobs run. Default: jobs in the site's folder.",
)
@third_party_option
@click.option("--host", help="The address to answer at. Default: 127.0.0.1.")
@click.option("--port", help="The port to answer at; 0 takes a free one. Default: 9000.")
@click.option("--advertise", metavar="URL", help="The URL that volumes and clients use.")
@click.option(
    "--new-cluster",
    is_flag=True,
    help="The cluster.key in DIR was put there for a cluster that has no volumes yet.",
)
def command(
    app: str | None,
    config: str | None,
    data: str | None,
    jobs: str | None,
    third_party: str | None,
    host: str | None,
    port: str | None,
    advertise: str | None,
    new_cluster: bool,
) -> None:
    """Start the master of a cluster on this machine.

    The first start makes cluster.key in its directory; a volume needs a copy of it to join. Prints
    `pulzar: ready at URL` on stdout once it answers, and nothing else; the log goes to stderr. It
    serves data as soon as a volume has joined (`pulzar volume --master URL`). Ctrl-C or SIGTERM
    stops it; the volumes wait for it.
    """
    disk = SystemDisk()
    flags = {
        "master_dir": data,
        "jobs_dir": jobs,
        "third_party_dir": third_party,
        "host": host,
        "port": port,
        "advertise": advertise,
    }
    settings = load(disk, app=app, file=config, flags=flags)
    configure_log(settings.log_level)
    uvloop.run(
        run_master(
            settings,
            disk=disk,
            clock=SystemClock(),
            on_ready=say_ready,
            new_cluster=new_cluster,
        )
    )
