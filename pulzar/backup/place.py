"""Which target [backup] of server.conf means."""

import os

import msgspec

from pulzar.config import Config
from pulzar.disk import SystemDisk, read_file
from pulzar.errors import BackupUnfit, InvalidSetting


class Place(msgspec.Struct, frozen=True):
    """A target: for `open_target`."""

    url: str
    options: dict[str, str]


def place_of(config: Config, target: str = "") -> Place:
    """The target that is named, else the one of the settings. User and password are those of the
    settings. Raises BackupUnfit where there is none."""
    url = target or _url(config)
    if not url:
        raise BackupUnfit("no target: name a directory or a URL, or set [backup] address")
    return Place(url, _options(config, url))


def _url(config: Config) -> str:
    address = config.backup_address
    if not address or "://" in address:
        return address
    if config.backup_type == "directory":
        return os.path.join(config.app_dir, address)
    return f"{config.backup_type}://{address}"


def _secret(path: str) -> str:
    """The password in a file. Raises InvalidSetting."""
    if not path:
        return ""
    try:
        return read_file(SystemDisk(), path).decode("utf-8", "replace").strip()
    except OSError as error:
        raise InvalidSetting(f"[backup] psw_file {path} cannot be read: {error.strerror}") from None


def _options(config: Config, url: str) -> dict[str, str]:
    scheme = url.partition("://")[0] if "://" in url else "directory"
    user, secret = config.backup_user, config.backup_psw or _secret(config.backup_psw_file)
    names = {"s3": ("key", "secret"), "sftp": ("username", "password")}.get(scheme)
    if names is None:
        return {}
    return {name: value for name, value in zip(names, (user, secret), strict=True) if value}
