"""Settings: where they come from, which one holds, and what a mistake is answered with."""

import os
import re
from pathlib import Path

import msgspec
import pytest

from pulzar.cli.init import MANAGE, site_files
from pulzar.config import Config, load
from pulzar.disk import SystemDisk
from pulzar.errors import InvalidSetting
from pulzar.settings import SETTINGS, server_conf

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "app" / "config" / "server.conf"

SPECIFICATION = """\
[server]
host=127.0.0.1
port=9000

[volume]
# Where to store files
dir=/tmp/volume
port=9001
"""


def site(directory: Path, text: str) -> str:
    """A site folder whose server.conf is `text`."""
    (directory / "config").mkdir()
    (directory / "config" / "server.conf").write_text(text)
    return str(directory)


def load_text(directory: Path, text: str, **environment: str) -> Config:
    return load(SystemDisk(), app=site(directory, text), environment=environment)


def values(config: Config) -> dict[str, object]:
    return {setting.field: getattr(config, setting.field) for setting in SETTINGS}


def test_defaults_hold_without_a_file(tmp_path: Path) -> None:
    config = load(SystemDisk(), app=str(tmp_path), environment={})
    assert (config.host, config.port, config.volume_port) == ("127.0.0.1", 9000, 9001)
    assert config.data_dir == str(tmp_path / "storage")
    assert config.file is None
    assert set(config.origins.values()) == {"default"}


def test_server_conf_of_the_specification_loads(tmp_path: Path) -> None:
    config = load_text(tmp_path, SPECIFICATION)
    assert (config.host, config.port, config.volume_port) == ("127.0.0.1", 9000, 9001)
    assert config.data_dir == "/tmp/volume"
    assert config.origins["port"].endswith("config/server.conf line 3")


def test_shipped_server_conf_is_the_table() -> None:
    assert SHIPPED.read_text() == server_conf()


def test_shipped_manage_py_is_what_a_new_site_gets() -> None:
    for name in (MANAGE, *(name for name in site_files() if name.startswith("jobs/"))):
        assert Path(SHIPPED.parents[1], name).read_text() == site_files()[name]


def test_shipped_server_conf_holds_every_default(tmp_path: Path) -> None:
    shipped = load_text(tmp_path, server_conf())
    (tmp_path / "config" / "server.conf").unlink()
    assert values(shipped) == values(load(SystemDisk(), app=str(tmp_path), environment={}))
    assert all("line" in origin for origin in shipped.origins.values())


def test_every_setting_is_explained_above_its_line() -> None:
    text = server_conf()
    for setting in SETTINGS:
        block = re.search(rf"((?:# .*\n)+){setting.name} = {re.escape(setting.default)}\n", text)
        assert block is not None, setting
        assert "# What it costs: " in block[1]
        assert "# If unsure: " in block[1]
    assert max(map(len, text.splitlines())) <= 80


def test_every_setting_is_a_field_of_config() -> None:
    fields = {field.name for field in msgspec.structs.fields(Config)}
    assert fields - {"app_dir", "file", "origins"} == {setting.field for setting in SETTINGS}


def test_flag_before_environment_before_file_before_default(tmp_path: Path) -> None:
    app = site(tmp_path, "[server]\nport = 9100\n")
    variable = {"PULZAR_SERVER_PORT": "9200"}
    seen = []
    for environment, flag in ((variable, "9300"), (variable, None), ({}, None)):
        config = load(SystemDisk(), app=app, flags={"port": flag}, environment=environment)
        seen.append((config.port, config.origins["port"]))
    assert seen == [
        (9300, "--port"),
        (9200, "PULZAR_SERVER_PORT"),
        (9100, f"{tmp_path}/config/server.conf line 2"),
    ]


def test_paths_are_relative_to_the_site_and_flags_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    app = site(tmp_path, "[volume]\ndir = ../data/./here\n")
    assert load(SystemDisk(), app=app, environment={}).data_dir == str(
        tmp_path.parent / "data" / "here"
    )
    flags = {"data_dir": "mine"}
    config = load(SystemDisk(), app=app, environment={}, flags=flags)
    assert (config.data_dir, config.origins["data_dir"]) == (str(elsewhere / "mine"), "--data")


def test_home_is_expanded_in_a_path(tmp_path: Path) -> None:
    config = load_text(tmp_path, "[volume]\ndir = ~/pulzar\n")
    assert config.data_dir == os.path.expanduser("~/pulzar")


def test_site_folder_is_app_then_here_then_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"XDG_DATA_HOME": str(tmp_path / "home")}

    def found() -> str:
        return load(SystemDisk(), environment=environment).app_dir

    assert found() == str(tmp_path / "home" / "pulzar")
    site(tmp_path, "")
    assert found() == str(tmp_path)
    (tmp_path / "app").mkdir()
    site(tmp_path / "app", "")
    assert found() == str(tmp_path / "app")


def test_file_named_by_a_flag_is_read_for_the_site_that_was_found(tmp_path: Path) -> None:
    other = tmp_path / "other.conf"
    other.write_text("[server]\nport = 9400\n")
    config = load(
        SystemDisk(),
        app=site(tmp_path, "[server]\nport = 9100\n"),
        file=str(other),
        environment={},
    )
    assert (config.port, config.data_dir) == (9400, str(tmp_path / "storage"))
    assert config.file == str(other)


def test_ini_as_people_write_it(tmp_path: Path) -> None:
    config = load_text(
        tmp_path,
        "\ufeff; a comment\r\n[Server]\r\n  Port : 9100  # behind a blank\r\n\r\n"
        "[volume]\ndir=/data/a#b=c\nreserve = 1 gib\nsegment=4194304\nretired_grace=90m\n[jobs]\n",
    )
    assert (config.port, config.data_dir) == (9100, "/data/a#b=c")
    assert (config.reserve_bytes, config.segment_bytes) == (2**30, 2**22)
    assert config.retired_grace_s == 5400


def test_empty_variable_counts_as_absent(tmp_path: Path) -> None:
    assert load_text(tmp_path, "", PULZAR_SERVER_PORT="").port == 9000


def test_other_variables_of_pulzar_are_none_of_ours(tmp_path: Path) -> None:
    assert load_text(tmp_path, "", PULZAR_MASTER="http://x", PULZARIA="1").port == 9000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nprot = 1\n", ["line 2", "'prot'", "[server]", "did you mean 'port'"]),
        ("[server]\ndir = /x\n", ["line 2", "did you mean [volume] dir"]),
        ("[server]\nlog_levle = info\n", ["line 2", "did you mean [general] log_level"]),
        ("[server]\nzzzz = 1\n", ["line 2", "it has host, port, client_timeout"]),
        ("[third_party]\nzzzz = 1\n", ["line 2", "it has dir, slots"]),
        ("[backup]\ntype = ftp\n", ["line 2", "'ftp'", "directory, s3, sftp"]),
        ("[backup]\nactive = perhaps\n", ["line 2", "'perhaps'", "yes or no"]),
        ("[backup]\ninterval = 5s\n", ["line 2", "'5s'", "at least 1m"]),
        ("[backup]\nkeep = 0\n", ["line 2", "'0'", "from 1"]),
        ("[sever]\nport = 1\n", ["line 1", "[sever]", "did you mean server"]),
        ("[server\nport = 1\n", ["line 1", "[server"]),
        ("port = 1\n", ["line 1", "'port'", "before the first [section]"]),
        ("[server]\nport\n", ["line 2", "'port'", "name = value"]),
        ("[server]\nport = 1\nport = 2\n", ["line 3", "set before", "line 2"]),
        ("[server]\nport =\n", ["line 2", "''", "[server] port", "0 to 65535"]),
        ("[server]\nport = 65536\n", ["line 2", "'65536'", "0 to 65535"]),
        ("[server]\nport = -1\n", ["'-1'"]),
        ("[server]\nport = \u0661\n", ["[server] port"]),
        ("[server]\nhost = a b\n", ["'a b'", "without a port"]),
        ("[server]\nhost = 127.0.0.1:9000\n", ["without a port"]),
        ("[server]\nclient_timeout = 0s\n", ["'0s'", "at least 1s"]),
        ("[server]\nclient_timeout = 25d\n", ["'25d'", "at most 24h"]),
        ("[server]\nclient_timeout = 86401s\n", ["'86401s'", "at most 24h"]),
        ("[volume]\ndir =\n", ["[volume] dir", "not empty"]),
        ('[volume]\ndir = "/x"\n', ["without quotes"]),
        ("[volume]\ndir = ~no-such-user-here/x\n", ["no such home directory"]),
        ("[volume]\nreserve = 5 parsecs\n", ["'5 parsecs'", "512MiB"]),
        ("[volume]\nreserve = -5\n", ["'-5'"]),
        ("[volume]\nsegment = 1KiB\n", ["from 2MiB to 2GiB"]),
        ("[volume]\nretired_grace = 24\n", ["'24'", "12h"]),
        ("[general]\nlog_level = loud\n", ["'loud'", "debug, info, warning, error"]),
        ("[backup]\nbackup_chunk = 0\n", ["'0'", "whole number"]),
    ],
)
def test_mistake_in_the_file_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(InvalidSetting) as raised:
        load_text(tmp_path, text)
    said = str(raised.value)
    assert "server.conf" in said
    assert "\n" not in said
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PULZAR_SERVER_PROT": "1"}, ["PULZAR_SERVER_PROT", "did you mean PULZAR_SERVER_PORT"]),
        ({"PULZAR_JOBS_X": "1"}, ["PULZAR_JOBS_X is no setting"]),
        ({"PULZAR_SERVER_PORT": "x"}, ["PULZAR_SERVER_PORT: 'x' is no [server] port"]),
    ],
)
def test_mistake_in_the_environment_is_named(
    tmp_path: Path, environment: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(InvalidSetting) as raised:
        load_text(tmp_path, "", **environment)
    for word in words:
        assert word in str(raised.value)


def test_mistake_is_found_although_something_else_holds(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="unknown setting 'prot'"):
        load_text(tmp_path, "[server]\nport = 1\nprot = 2\n", PULZAR_SERVER_PORT="9000")


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    disk = SystemDisk()
    latin = tmp_path / "latin.conf"
    latin.write_bytes(b"[server]\n# caf\xe9\n")
    for app, file, words in (
        (str(tmp_path / "missing"), None, "pulzar init"),
        (str(tmp_path), str(tmp_path / "missing.conf"), "no such file"),
        (str(tmp_path), str(tmp_path), "cannot be read"),
        (str(tmp_path), str(latin), "latin.conf line 2: not UTF-8"),
    ):
        with pytest.raises(InvalidSetting, match=words):
            load(disk, app=app, file=file, environment={})


@pytest.mark.parametrize(
    ("text", "host"),
    [("::1", "::1"), ("[::1]", "::1"), ("localhost", "localhost"), ("0.0.0.0", "0.0.0.0")],
)
def test_host_is_a_name_or_an_address(tmp_path: Path, text: str, host: str) -> None:
    assert load_text(tmp_path, f"[server]\nhost = {text}\n").host == host
