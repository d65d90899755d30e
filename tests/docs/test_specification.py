"""The users' specification, section "String values": every line of it, typed as it stands there."""

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pulzar.client.process import Server

LINES = [
    "curl -X PUT -L -T /path/to/file http://master:[port]/add_key/{key}",
    "curl -X PUT -L -T /path/to/file http://master:[port]/add_key/{key}?temporal={int}",
    "curl -X GET -L http://master:[port]/get_key/{key}",
    "curl -X DELETE -L http://master:[port]/delete_key/{key}",
]


@pytest.mark.slow
def test_string_values(tmp_path: Path) -> None:
    content = b"what is in the file\n"
    (tmp_path / "file").write_bytes(content)

    def typed(line: str, server: Server) -> bytes:
        address = urlsplit(server.url)
        line = line.replace("/path/to/file", str(tmp_path / "file"))
        line = line.replace("master:[port]", f"{address.hostname}:{address.port}")
        line = line.replace("{key}", "some_key").replace("{int}", "7")
        return subprocess.run(line.split(), capture_output=True, check=True, timeout=20).stdout

    with Server(str(tmp_path / "data")) as server:
        put, put_for_days, get, delete = LINES
        assert json.loads(typed(put, server))["expires"] is None
        assert typed(get, server) == content
        assert json.loads(typed(put_for_days, server))["expires"] is not None
        assert typed(get, server) == content
        assert json.loads(typed(delete, server))["key"] == "some_key"
        assert json.loads(typed(get, server))["code"] == "key_not_found"
