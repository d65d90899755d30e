"""The kinds of settings: text to value. Each raises ValueError with what it would have taken."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from pulzar.limits import (
    BACKUP_KEPT_MAX,
    CLIENT_TIMEOUT_S_MAX,
    EXTENSION_TIMEOUT_S_MAX,
    GIB,
    JOBS_KEPT_MAX,
    KIB,
    MIB,
    REPLICAS_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    SLOTS_MAX,
)

BACKUP_TYPES = ("directory", "s3", "sftp")
ENGINES = ("auto", "local", "dask")
ISOLATIONS = ("warm", "fresh")
LOG_LEVELS = ("debug", "info", "warning", "error")

SIZE_UNITS = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1024 * GIB}
DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_text(text: str) -> str:
    """A word or a path, without quotes and control characters."""
    if not text or text[0] in "\"'" or not text.isprintable():
        raise ValueError("give it without quotes, and not empty")
    return text


def parse_host(text: str) -> str:
    """A host name or an address to listen at."""
    name, address = r"[A-Za-z0-9._-]+", r"\[?[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]?"
    if not re.fullmatch(f"{name}|{address}", text):
        raise ValueError("give a name or an address, such as 127.0.0.1, without a port")
    return text.strip("[]")


def parse_port(text: str) -> int:
    """A TCP port; 0 lets the system choose."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65_535:
        raise ValueError("give a number from 0 to 65535, where 0 takes a free port")
    return int(text)


def parse_count(text: str) -> int:
    """A number of things, at least 1."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise ValueError("give a whole number from 1 to 999999999")
    return int(text)


def parse_slots(text: str) -> int:
    """How many jobs run at a time; -1 for as many as there are processors."""
    if text == "auto":
        return -1
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) > SLOTS_MAX:
        raise ValueError(f"give a whole number from 0 to {SLOTS_MAX}, or auto")
    return int(text)


def parse_replicas(text: str) -> int:
    """How many volumes hold a key."""
    if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= REPLICAS_MAX:
        raise ValueError(f"give a whole number from 1 to {REPLICAS_MAX}")
    return int(text)


def parse_url(text: str) -> str:
    """The URL of a server, without a path; empty for none."""
    if not text or text == "auto":
        return ""
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    host = parts.hostname or ""
    is_host = re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host)
    if parts.scheme != "http" or not is_host or port == 0 or parts.path.strip("/"):
        raise ValueError("give a URL such as http://10.0.0.1:9000, without a path")
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port or 80}"


def parse_name(text: str) -> str:
    """The name of a volume; empty or auto for that of the machine."""
    if not text or text == "auto":
        return ""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise ValueError("give 1 to 64 letters, digits, dots, dashes and underscores")
    return text


def parse_path_or_auto(text: str) -> str:
    """A path, or auto."""
    return "" if not text or text == "auto" else parse_text(text)


def parse_size(text: str) -> int:
    """Bytes: 4096, 64KiB, 512MiB, 2GiB, 1TiB."""
    found = re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]*)", text)
    if not found or found[2].lower() not in SIZE_UNITS:
        raise ValueError("give bytes or a size such as 64KiB, 512MiB or 2GiB")
    return int(found[1]) * SIZE_UNITS[found[2].lower()]


def parse_segment_size(text: str) -> int:
    """The size of a segment, within the limits of the format."""
    size = parse_size(text)
    if not SEGMENT_BYTES_MIN <= size <= SEGMENT_BYTES_MAX:
        raise ValueError(
            f"give a size from {size_text(SEGMENT_BYTES_MIN)} to {size_text(SEGMENT_BYTES_MAX)}"
        )
    return size


def parse_duration(text: str) -> int:
    """Seconds: 90s, 15m, 12h, 7d."""
    found = re.fullmatch(r"([0-9]{1,9}) ?([smhd])", text.lower())
    if not found:
        raise ValueError("give a number and s, m, h or d, such as 90s, 15m, 12h or 7d")
    return int(found[1]) * DURATION_UNITS[found[2]]


def parse_timeout(text: str) -> int:
    """Seconds, from one to CLIENT_TIMEOUT_S_MAX."""
    seconds = parse_duration(text)
    if not 1 <= seconds <= CLIENT_TIMEOUT_S_MAX:
        raise ValueError(f"give at least 1s and at most {CLIENT_TIMEOUT_S_MAX // 3600}h")
    return seconds


def parse_extension_timeout(text: str) -> int:
    """Seconds, from one to EXTENSION_TIMEOUT_S_MAX."""
    seconds = parse_duration(text)
    if not 1 <= seconds <= EXTENSION_TIMEOUT_S_MAX:
        raise ValueError(f"give at least 1s and at most {EXTENSION_TIMEOUT_S_MAX // 60}m")
    return seconds


def _one_of(text: str, names: Sequence[str]) -> str:
    if text.lower() not in names:
        raise ValueError(f"give one of {', '.join(names)}")
    return text.lower()


def parse_engine(text: str) -> str:
    """One of ENGINES."""
    return _one_of(text, ENGINES)


def parse_isolation(text: str) -> str:
    """One of ISOLATIONS."""
    return _one_of(text, ISOLATIONS)


def parse_any_text(text: str) -> str:
    """A text, which may be empty."""
    return parse_text(text) if text else ""


def parse_switch(text: str) -> bool:
    """Yes or no."""
    words = {"yes": True, "true": True, "on": True, "1": True}
    words |= {"no": False, "false": False, "off": False, "0": False}
    if text.lower() not in words:
        raise ValueError("give yes or no")
    return words[text.lower()]


def parse_backup_type(text: str) -> str:
    """One of BACKUP_TYPES."""
    return _one_of(text, BACKUP_TYPES)


def parse_interval(text: str) -> int:
    """Seconds, at least a minute."""
    seconds = parse_duration(text)
    if seconds < 60:
        raise ValueError("give at least 1m")
    return seconds


def parse_snapshots(text: str) -> int:
    """How many backups are kept."""
    count = parse_count(text)
    if count > BACKUP_KEPT_MAX:
        raise ValueError(f"give at most {BACKUP_KEPT_MAX:,}")
    return count


def parse_kept(text: str) -> int:
    """How many jobs are kept. Raises ValueError."""
    count = parse_count(text)
    if count > JOBS_KEPT_MAX:
        raise ValueError(f"give at most {JOBS_KEPT_MAX:,}")
    return count


def parse_log_level(text: str) -> str:
    """One of LOG_LEVELS."""
    return _one_of(text, LOG_LEVELS)


def size_text(size: int) -> str:
    """Bytes as a setting: 512MiB."""
    unit, factor = next(
        (unit, factor)
        for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("", 1))
        if size % factor == 0
    )
    return f"{size // factor}{unit}"
