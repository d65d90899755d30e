"""Conditions on a write or a read: If-Match and If-None-Match as pure values.

A version is a u64; a key that does not exist has no version (None). ETags are the version as 16
hex digits in double quotes; weak ETags (W/"...") never match If-Match (RFC 9110, 13.1.1).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of the current version of a key.

    `match` / `none_match`: None when the header is absent; `match_any` / `none_match_any` stand
    for `*`. An empty tuple is a header that names nothing: it matches nothing.
    """

    match: tuple[int, ...] | None = None
    match_any: bool = False
    none_match: tuple[int, ...] | None = None
    none_match_any: bool = False

    def match_holds(self, version: int | None) -> bool:
        """Whether If-Match holds for a key at `version` (None: no such key)."""
        if self.match_any:
            return version is not None
        return self.match is None or version in self.match

    def none_match_holds(self, version: int | None) -> bool:
        """Whether If-None-Match holds for a key at `version` (None: no such key)."""
        if self.none_match_any:
            return version is None
        return self.none_match is None or version not in self.none_match

    def holds(self, version: int | None) -> bool:
        """Whether a write may go on."""
        return self.match_holds(version) and self.none_match_holds(version)
