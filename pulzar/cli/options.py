"""The options that several commands share, so that they are the same everywhere."""

import os

import click

MASTER_DEFAULT = "http://127.0.0.1:9000"

master_option = click.option(
    "--master",
    envvar="PULZAR_MASTER",
    default=MASTER_DEFAULT,
    show_default=True,
    show_envvar=True,
    metavar="URL",
    help="Where the server answers.",
)

cache_option = click.option(
    "--cache",
    envvar="XDG_CACHE_HOME",
    default="~/.cache",
    show_default=True,
    show_envvar=True,
    metavar="DIR",
    callback=lambda _context, _parameter, value: os.path.expanduser(value),
    help="Where it is remembered what was moved, as pulzar/transfers.db.",
)

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON, one object per line, whatever stdout is.",
)

app_option = click.option(
    "--app",
    metavar="DIR",
    help="The site's folder. Default: ./app or . if it has config/server.conf, else a folder "
    "of your own under ~/.local/share.",
)

config_option = click.option(
    "--config",
    metavar="FILE",
    help="Read the settings from here and not from config/server.conf of the site's folder.",
)

third_party_option = click.option(
    "--third-party",
    metavar="DIR",
    help="Where the extensions are. Default: third_party in the site's folder.",
)

directory_argument = click.argument("directory", metavar="DIR")
