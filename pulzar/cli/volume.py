"""`pulzar volume`: a volume of a cluster."""

import click
import uvloop

from pulzar.cli.options import app_option, config_option
from pulzar.cli.ready import say_ready
from pulzar.clock import SystemClock
from pulzar.config import load
from pulzar.disk import SystemDisk
from pulzar.program import configure_log, run_volume


@click.command("volume")
@app_option
@config_option
@click.option(
    "--master",
    metavar="URL",
    help="Where the master answers. Default: [server] host and port of server.conf.",
)
@click.option("--name", help="The volume's name. Default: the name of this machine.")
@click.option(
    "--data",
    metavar="DIR",
    help="Where to store the data. Default: storage in the site's folder.",
)
@click.option(
    "--key-file",
    metavar="F",
    help="A copy of the master's cluster.key. Default: cluster.key in the data directory, where it "
    "is kept once it was given.",
)
@click.option("--host", help="The address to answer at. Default: 127.0.0.1.")
@click.option("--port", help="The port to answer at; 0 takes a free one. Default: 9001.")
@click.option(
    "--advertise", metavar="URL", help="The URL that the master, other volumes and clients use."
)
def command(
    app: str | None,
    config: str | None,
    master: str | None,
    name: str | None,
    data: str | None,
    key_file: str | None,
    host: str | None,
    port: str | None,
    advertise: str | None,
) -> None:
    """Start a volume of a cluster on this machine.

    It makes itself known to the master, each second, and needs no other setting than where that is
    and the cluster's key. Prints `pulzar: ready at URL` on stdout once it answers, and nothing
    else; the log goes to stderr. A directory in which `pulzar up` has served may be the first
    volume of a cluster; any other volume joins with an empty one.
    """
    disk = SystemDisk()
    flags = {
        "master_url": master,
        "volume_name": name,
        "data_dir": data,
        "key_file": key_file,
        "volume_host": host,
        "volume_port": port,
        "volume_advertise": advertise,
    }
    settings = load(disk, app=app, file=config, flags=flags)
    configure_log(settings.log_level)
    uvloop.run(run_volume(settings, disk=disk, clock=SystemClock(), on_ready=say_ready))
