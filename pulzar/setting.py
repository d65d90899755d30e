"""One setting: where it stands, what it takes, what it does, what it costs."""

from collections.abc import Callable
from typing import Any

import msgspec

ENVIRONMENT_PREFIX = "PULZAR_"
SECTIONS = ("server", "volume", "general", "jobs", "third_party", "backup")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    `field` is its name in Config.
    """

    section: str
    name: str
    field: str
    parse: Callable[[str], Any]
    default: str
    does: str
    costs: str
    unsure: str
    is_path: bool = False
    is_secret: bool = False

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"{ENVIRONMENT_PREFIX}{self.section}_{self.name}".upper()

    def __str__(self) -> str:
        return f"[{self.section}] {self.name}"
