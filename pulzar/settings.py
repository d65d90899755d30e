"""The table of every setting: section, name, kind, default, what it does, what it costs.

SETTINGS is the only list. From it follow the commented `server.conf` that ships (`server_conf`,
below), the names of the environment variables, the errors, and what `pulzar config` prints.
`config.py` reads the values.
"""

import textwrap

from pulzar.setting import SECTIONS, Setting
from pulzar.settings_of_store import SETTINGS_OF_STORE
from pulzar.settings_of_work import SETTINGS_OF_WORK

SETTINGS = (*SETTINGS_OF_STORE, *SETTINGS_OF_WORK)


# The file that ships.

PREFACE = """\
The settings of this site. Each stands here with its default; change the value, or delete the line \
to follow the default of later versions. The server reads this file when it starts.
An environment variable comes before this file (PULZAR_SERVER_PORT=9100 for [server] port), a flag \
of `pulzar up` before both (--port 9100). `pulzar config` shows what holds and where it comes from.
Sizes are written 64KiB, 512MiB, 2GiB; times 90s, 15m, 12h, 7d. Behind a # or ; is a comment.
"""


def server_conf() -> str:
    """The commented server.conf, from the table."""
    blocks = ["#\n".join(_comment(paragraph) for paragraph in PREFACE.splitlines())]
    for section in SECTIONS:
        rows = [setting for setting in SETTINGS if setting.section == section]
        if rows:
            blocks.append(f"[{section}]\n")
            blocks += [_block(setting) for setting in rows]
    return "\n".join(blocks)


def _block(setting: Setting) -> str:
    paragraphs = [setting.does]
    paragraphs.append(f"What it costs: {setting.costs}")
    paragraphs.append(f"If unsure: {setting.unsure}")
    return "".join(map(_comment, paragraphs)) + f"{setting.name} = {setting.default}\n"


def _comment(paragraph: str) -> str:
    lines = textwrap.wrap(paragraph, 78, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)
