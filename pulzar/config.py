"""The settings that hold, read once into one frozen value.

A setting (`settings.py` has the table) holds the first of:

    1. a flag                     pulzar up --port 9100
    2. an environment variable    PULZAR_SERVER_PORT=9100      (an empty one counts as absent)
    3. a line of server.conf      [server] port = 9100
    4. its default

`Config.origins` remembers which. An unknown section or name, or a value that cannot be meant,
raises InvalidSetting with the place and the nearest name: a setting is never ignored.

server.conf is an ini file: `[section]`, `name = value` or `name: value`, comments behind `#`
or `;` on a line of their own or after a blank. Names are read without regard to case. This is the
only module that reads the environment; relative paths in the file and in the environment are
relative to the site's folder, those of flags to the working directory.
"""

import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from pulzar.disk import Disk, read_file
from pulzar.errors import InvalidSetting
from pulzar.limits import SETTINGS_FILE_BYTES_MAX
from pulzar.setting import ENVIRONMENT_PREFIX, SECTIONS, Setting
from pulzar.settings import SETTINGS

SETTINGS_FILE = "config/server.conf"  # in the site's folder

BY_PLACE = {(setting.section, setting.name): setting for setting in SETTINGS}
BY_VARIABLE = {setting.variable: setting for setting in SETTINGS}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that hold. Paths are absolute; `origins` says where each field came from."""

    host: str
    port: int
    client_timeout_s: int
    master_dir: str
    advertise: str
    replicas: int
    min_copies: int
    lost_after_s: int
    data_dir: str
    volume_host: str
    volume_port: int
    volume_advertise: str
    master_url: str
    volume_name: str
    key_file: str
    reserve_bytes: int
    segment_bytes: int
    retired_grace_s: int
    jobs_dir: str
    job_engine: str
    job_slots: int
    job_memory_bytes: int
    job_isolation: str
    job_keep: int
    job_keep_s: int
    third_party_dir: str
    third_party_slots: int
    third_party_timeout_s: int
    third_party_memory_bytes: int
    log_level: str
    backup_active: bool
    backup_type: str
    backup_address: str
    backup_user: str
    backup_psw: str
    backup_psw_file: str
    backup_interval_s: int
    backup_keep: int
    backup_chunk_records: int
    app_dir: str
    file: str | None
    origins: Mapping[str, str]


def url_of(host: str, port: int) -> str:
    """The URL of a server at a name or an address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def load(
    disk: Disk,
    *,
    app: str | None = None,
    file: str | None = None,
    flags: Mapping[str, str | None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read every setting once. `flags` are texts by field; None was not given.

    Raises InvalidSetting and nothing else.
    """
    surroundings = os.environ if environment is None else environment
    app_dir = find_app(disk, app, surroundings)
    path = _settings_path(disk, app_dir, file)
    given = {}  # field -> (text, origin, the directory that a relative path starts from)
    for setting, text, origin in _environment_settings(surroundings):
        given[setting.field] = (text, origin, app_dir)
    if path is not None:
        for setting, text, origin in _file_settings(_read_text(disk, path), path):
            given.setdefault(setting.field, (text, origin, app_dir))
    for field, flag in (flags or {}).items():
        if flag is not None:
            given[field] = (flag, _flag_name(field), os.getcwd())
    values: dict[str, Any] = {}
    origins = {}
    for setting in SETTINGS:
        text, origin, base = given.get(setting.field, (setting.default, "default", app_dir))
        values[setting.field] = _value(setting, text, origin, base)
        origins[setting.field] = origin
    return Config(app_dir=app_dir, file=path, origins=origins, **values)


def find_app(disk: Disk, app: str | None, environment: Mapping[str, str]) -> str:
    """The site's folder: the one named, else ./app, else ., else a folder of the user's own."""
    if app is not None:
        if not disk.exists(os.path.join(app, ".")):
            raise InvalidSetting(f"--app {app}: no such folder; `pulzar init {app}` makes one")
        return os.path.abspath(app)
    for candidate in ("app", "."):
        if disk.exists(os.path.join(candidate, SETTINGS_FILE)):
            return os.path.abspath(candidate)
    home = environment.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    if home.startswith("~"):
        raise InvalidSetting("this user has no home directory; name the site's folder with --app")
    return os.path.abspath(os.path.join(home, "pulzar"))


def _settings_path(disk: Disk, app_dir: str, file: str | None) -> str | None:
    """The settings file to read; None where the site has none, which is allowed."""
    if file is not None:
        if not disk.exists(file):
            raise InvalidSetting(f"--config {file}: no such file")
        return os.path.abspath(file)
    path = os.path.join(app_dir, SETTINGS_FILE)
    return path if disk.exists(path) else None


def _read_text(disk: Disk, path: str) -> str:
    try:
        content = read_file(disk, path)
    except OSError as error:
        raise InvalidSetting(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > SETTINGS_FILE_BYTES_MAX:
        raise InvalidSetting(f"{path}: larger than {SETTINGS_FILE_BYTES_MAX} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidSetting(f"{path} line {line}: not UTF-8") from error


_FLAGS = {
    "data_dir": "--data",
    "master_dir": "--data",
    "volume_host": "--host",
    "volume_port": "--port",
    "volume_advertise": "--advertise",
    "volume_name": "--name",
    "master_url": "--master",
    "jobs_dir": "--jobs",
    "third_party_dir": "--third-party",
}


def _flag_name(field: str) -> str:
    return _FLAGS.get(field, f"--{field.replace('_', '-')}")


def _value(setting: Setting, text: str, origin: str, base: str) -> object:
    try:
        value: object = setting.parse(text)
    except ValueError as error:
        raise InvalidSetting(f"{origin}: {text!r} is no {setting}: {error}") from error
    if not setting.is_path or not value:
        return value
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise InvalidSetting(f"{origin}: {text!r} is no {setting}: there is no such home directory")
    return os.path.normpath(os.path.join(base, expanded))


def _environment_settings(environment: Mapping[str, str]) -> Iterator[tuple[Setting, str, str]]:
    """The settings that environment variables hold."""
    ours = tuple(f"{ENVIRONMENT_PREFIX}{section}_".upper() for section in SECTIONS)
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ours) or not text:
            continue
        setting = BY_VARIABLE.get(variable)
        if setting is None:
            hint = _nearest(variable, BY_VARIABLE)
            raise InvalidSetting(f"environment: {variable} is no setting{hint}")
        yield setting, text, variable


def _file_settings(text: str, path: str) -> Iterator[tuple[Setting, str, str]]:
    """The settings that a file holds, each with `path line N`."""
    section = ""
    seen: dict[Setting, str] = {}
    for number, written in enumerate(text.splitlines(), start=1):
        origin = f"{path} line {number}"
        line = re.split(r"(?:^|\s)[#;]", written, maxsplit=1)[0].strip()
        if not line:
            continue
        if line.startswith("["):
            section = _section(line, origin)
            continue
        name, *value = re.split("[=:]", line, maxsplit=1)
        if not value:
            raise InvalidSetting(f"{origin}: {line!r} is neither [section] nor name = value")
        setting = _setting(section, name.strip().lower(), origin)
        if setting in seen:
            raise InvalidSetting(f"{origin}: {setting} is set before, at {seen[setting]}")
        seen[setting] = origin
        yield setting, value[0].strip(), origin


def _section(line: str, origin: str) -> str:
    section = line[1:-1].strip().lower()
    if not line.endswith("]") or section not in SECTIONS:
        raise InvalidSetting(f"{origin}: unknown section {line}{_nearest(section, SECTIONS)}")
    return section


def _setting(section: str, name: str, origin: str) -> Setting:
    if not section:
        raise InvalidSetting(f"{origin}: {name!r} stands before the first [section]")
    setting = BY_PLACE.get((section, name))
    if setting is None:
        hint = _nearest_setting(section, name)
        raise InvalidSetting(f"{origin}: unknown setting {name!r} in [{section}]{hint}")
    return setting


def _nearest_setting(section: str, name: str) -> str:
    """The same name in another section, else a near one in this section, else in any."""
    elsewhere = [setting for setting in SETTINGS if setting.name == name]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    here = [setting.name for setting in SETTINGS if setting.section == section]
    close = difflib.get_close_matches(name, here, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    everywhere = {setting.name: setting for setting in reversed(SETTINGS)}
    close = difflib.get_close_matches(name, everywhere, n=1)
    if close:
        return f"; did you mean {everywhere[close[0]]}?"
    return f"; it has {', '.join(here)}"


def _nearest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
