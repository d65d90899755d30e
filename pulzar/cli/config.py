"""`pulzar config`: the settings that hold, and where each comes from."""

import click

from pulzar.cli.options import app_option, config_option, json_option
from pulzar.cli.output import print_json, print_table
from pulzar.config import load
from pulzar.disk import SystemDisk
from pulzar.settings import SETTINGS


@click.command("config")
@app_option
@config_option
@json_option
def command(app: str | None, config: str | None, as_json: bool) -> None:
    """Show the settings that hold, and where each comes from.

    As `pulzar up` would find them here and now: server.conf, environment variables, defaults.
    The columns are section, name, value and where it comes from. The environment variable of
    `[server] port` is PULZAR_SERVER_PORT, and so on.
    """
    found = load(SystemDisk(), app=app, file=config)
    rows = []
    for setting in SETTINGS:
        value = getattr(found, setting.field)
        if setting.is_secret and value:
            value = "***"
        origin = found.origins[setting.field]
        rows.append((setting.section, setting.name, value, origin))
        if as_json:
            print_json(
                {
                    "section": setting.section,
                    "name": setting.name,
                    "value": value,
                    "origin": origin,
                    "default": setting.parse(setting.default),
                    "variable": setting.variable,
                }
            )
    if not as_json:
        print_table(("section", "name", "value", "from"), rows)
