"""The users' specification, all of it, in its order: every command by curl, every shape with types.

A master and a volume, programs of their own, serve a site as the specification describes one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pulzar.client.process import Server
from pulzar.clock import SystemClock
from pulzar.testing.machines import free_port
from tests.docs.fences import ROOT
from tests.docs.specified import EXAMPLE

pytestmark = pytest.mark.slow

DEADLINE_S = 30.0

CONFIGURATION = """\
[server]
host=127.0.0.1
port={port}

[volume]
# Where to store files
dir={volume}
port={volume_port}
"""

# The specification says "under the backup section" and names backup_chunk; this is what is in it.
AUTO_BACKUP = """
[backup]
active=yes
type=directory
address={target}
interval=24h
backup_chunk=1000
"""

EXTENDING = """\
import json

class Example:
    def __init__(self, arg1):
        self.arg1 = arg1

    def hello(self):
        print(self.arg1)

def execute(arguments):
    example = Example(arguments[0])
    example.hello()
    return json.dumps([])
"""

JOB = "def execute(arguments):\n    return arguments\n"
FAILING_JOB = "def execute(arguments):\n    raise ValueError(arguments)\n"

STATUS = {
    "psize": int,
    "depth": int,
    "branch_pages": int,
    "leaf_pages": int,
    "overflow_pages": int,
    "entries": int,
}
NODE = {"node": str, "percent": int, "synch": bool}
JOB_SHAPE = {
    "job_id": int,
    "job_name": str,
    "parameters": str,
    "node": str,
    "creation_time": int,
}
SCHEDULED_SHAPE = {
    "job_id": int,
    "job_name": str,
    "parameters": str,
    "creation_time": str,
    "interval": str,
    "time_unit": str,
    "repeat": int,
    "next_execution": str,
}
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}\.\d{6}")


def has_shape(found: dict[str, Any], shape: Mapping[str, type]) -> bool:
    """Whether an object has these members, of exactly these types; it may have more."""
    return all(type(found.get(name)) is kind for name, kind in shape.items())


class Site:
    """A site as the specification has it, and its two programs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.app = path / "app"
        self.volume_dir = path / "volume"
        self.port, self.volume_port = free_port("127.0.0.1"), free_port("127.0.0.1")
        subprocess.run([*PULZAR, "init", str(self.app)], check=True, capture_output=True)
        text = CONFIGURATION.format(
            port=self.port, volume=self.volume_dir, volume_port=self.volume_port
        )
        (self.app / "config" / "server.conf").write_text(text)
        self.master = self._server("master")
        self.volume = self._server("volume")

    def _server(self, name: str) -> Server:
        command = [*PULZAR, name, "--app", str(self.app)]
        return Server(str(self.path), command=command)

    def curl(self, method: str, path: str, *options: str) -> bytes:
        """A command of the specification: curl -X METHOD -L http://master:[port]/..."""
        url = f"http://127.0.0.1:{self.port}/{path}"
        command = ["curl", "-s", "-X", method, "-L", *options, url]
        return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout

    def json(self, method: str, path: str, *options: str) -> Any:
        """The same, where JSON is answered."""
        return json.loads(self.curl(method, path, *options))

    def until(self, holds: Callable[[], object]) -> None:
        clock = SystemClock()
        end_s = clock.monotonic_s() + DEADLINE_S
        while not holds():
            assert clock.monotonic_s() < end_s
            threading.Event().wait(0.05)

    def until_ready(self) -> None:
        self.until(lambda: b'"ready"' in self.curl("GET", "readyz"))

    def check_synch(self) -> bool:
        network = self.json("GET", "admin/network")
        return isinstance(network, list) and bool(network) and network[0]["synch"]


PULZAR = [sys.executable, "-P", "-c", "from pulzar.cli import main; main()"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    made.master.start()
    made.volume.start()
    try:
        made.until(made.check_synch)
        yield made
    finally:
        made.volume.kill()
        made.master.kill()


@pytest.mark.timeout(180)
def test_the_configuration_and_the_two_programs(site: Site) -> None:
    assert (site.app / "config" / "master.ini").exists()
    assert (site.app / "config" / "volume.ini").exists()
    assert (site.volume_dir / "volume" / "volume.json").exists()


def test_string_values(site: Site) -> None:
    file = site.path / "file"
    content = b"what is in the file\n"
    file.write_bytes(content)
    added = site.json("PUT", "add_key/some_key", "-T", str(file))
    assert added["key"] == "some_key"
    assert added["expires"] is None
    assert site.curl("GET", "get_key/some_key") == content
    temporal = site.json("PUT", "add_key/some_key?temporal=7", "-T", str(file))
    days = datetime.fromisoformat(temporal["expires"]) - datetime.now(UTC)
    assert 6.9 < days.total_seconds() / 86_400 <= 7.01
    assert site.curl("GET", "get_key/some_key") == content
    assert site.json("DELETE", "delete_key/some_key")["key"] == "some_key"
    assert site.json("GET", "get_key/some_key")["code"] == "key_not_found"


def test_extending_the_app(site: Site) -> None:
    (site.app / "third_party" / "mine.py").write_text(EXTENDING)
    assert site.curl("GET", "third_party/mine/arg1/arg2/arg_n") == b"[]"
    (site.app / "third_party" / "example.py").write_text(EXAMPLE)
    assert site.json("GET", "third_party/example/hello") == {"my_arg": "hello"}


def test_the_search_extension(site: Site) -> None:
    site.curl("PUT", "add_key/books/one", "-T", str(site.path / "file"))
    today = datetime.now(UTC).strftime("%m-%d-%Y")
    (found,) = site.json("GET", "third_party/search/ook")["results"]
    assert found["key"] == "books/one"
    assert site.json("GET", f"third_party/search/ook?eq={today}")["results"] == [found]
    assert site.json("GET", f"third_party/search/ook?lt={today}")["results"] == []
    between = "third_party/search/ook?lt=12-31-2999&gt=01-01-2020"
    assert site.json("GET", between)["results"] == [found]
    url = found["url"].removeprefix(f"http://127.0.0.1:{site.port}/")
    assert site.curl("GET", url) == (site.path / "file").read_bytes()


def test_jobs_and_schedules(site: Site) -> None:
    folder = site.app / "jobs" / "custom_directory"
    folder.mkdir(parents=True)
    (folder / "your_script.py").write_text(JOB)
    (folder / "failing.py").write_text(FAILING_JOB)
    body = json.dumps({"arg1": "value1", "arg2": 123})
    launched = site.json("POST", "launch_job/custom_directory/your_script", "-d", body)
    assert type(launched["job_id"]) is int
    site.json("POST", "launch_job/custom_directory/failing", "-d", body)
    scheduled = {
        "arg1": 12,
        "arg2": 225798,
        "scheduled": {"interval": "minutes", "time_unit": 5, "repeat": 1},
    }
    planned = site.json(
        "POST", "launch_job/custom_directory/your_script", "-d", json.dumps(scheduled)
    )
    assert type(planned["job_id"]) is int
    for interval in ("hours", "weeks"):
        more = {"scheduled": {"interval": interval, "time_unit": 24, "repeat": 1}}
        site.json("POST", "launch_job/custom_directory/your_script", "-d", json.dumps(more))
    site.until(lambda: not site.json("GET", "admin/jobs")["pendings"])
    jobs = site.json("GET", "admin/jobs")
    assert {"pendings", "ready", "failed", "scheduled"} <= set(jobs)
    (ready,) = [job for job in jobs["ready"] if job["job_id"] == launched["job_id"]]
    assert has_shape(ready, JOB_SHAPE)
    assert ready["job_name"] == "your_script"
    assert json.loads(ready["parameters"]) == {"arg1": "value1", "arg2": 123}
    assert all(has_shape(job, JOB_SHAPE) for job in jobs["failed"])
    assert len(jobs["failed"]) == 1
    (plan,) = [job for job in jobs["scheduled"] if job["job_id"] == planned["job_id"]]
    assert has_shape(plan, SCHEDULED_SHAPE)
    assert (plan["interval"], plan["time_unit"], plan["repeat"]) == ("minutes", "5", 1)
    assert json.loads(plan["parameters"]) == {"arg1": 12, "arg2": 225798}
    assert MOMENT.fullmatch(plan["creation_time"])
    assert MOMENT.fullmatch(plan["next_execution"])


def test_system_information(site: Site) -> None:
    status = site.json("GET", "admin/status")
    assert has_shape(status, STATUS)
    assert status["entries"] == 1
    network = site.json("GET", "admin/network")
    assert isinstance(network, list)
    (node,) = network
    assert has_shape(node, NODE)
    assert node["synch"] is True
    assert 0 <= node["percent"] <= 100
    one = site.json("GET", f"admin/network/{node['node']}")
    assert has_shape(one, NODE)
    assert one["node"] == node["node"]


def test_auto_backup(site: Site) -> None:
    target = site.path / "backups"
    config = site.app / "config" / "server.conf"
    text = config.read_text()
    site.master.terminate()
    config.write_text(text + AUTO_BACKUP.format(target=target))
    site.master.start()
    site.until_ready()
    site.until(lambda: list(target.glob("snapshots/*.json")))
    site.master.terminate()
    config.write_text(text)
    site.master.start()
    site.until_ready()


def test_backup_and_volume_restauration(site: Site) -> None:
    """Tar the directory, lose it, untar it, start the volume."""
    file = site.path / "file"
    site.curl("PUT", "add_key/kept", "-T", str(file))
    tar = site.path / "volume.tar"
    command = ["tar", "-C", str(site.path), "--warning=no-file-changed", "-cf", str(tar), "volume"]
    assert subprocess.run(command, check=False, capture_output=True).returncode in (0, 1)
    site.volume.kill()
    shutil.rmtree(site.volume_dir)
    subprocess.run(["tar", "-C", str(site.path), "-xf", str(tar)], check=True)
    site.volume.start()
    site.until(site.check_synch)
    assert site.curl("GET", "get_key/kept") == file.read_bytes()


def test_master_restauration(site: Site) -> None:
    """Lose everything of the master but the cluster's key, start it, synchronise the volumes."""
    site.master.kill()
    state = site.app / "storage" / "master"
    key = (state / "cluster.key").read_bytes()
    shutil.rmtree(state)
    state.mkdir()
    (state / "cluster.key").write_bytes(key)
    os.chmod(state / "cluster.key", 0o600)
    site.master.start()
    volume_url = f"http://127.0.0.1:{site.volume_port}"
    done = subprocess.run(
        ["python3", "manage.py", "--restore", volume_url],
        cwd=site.app,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    site.until_ready()
    assert site.curl("GET", "get_key/kept") == (site.path / "file").read_bytes()
    assert site.json("GET", "admin/status")["entries"] == 2


def test_internal_methods(site: Site) -> None:
    assert site.json("POST", "skynet/heartbeat")["code"] == "forbidden"
    url = f"http://127.0.0.1:{site.volume_port}/autodiscovery/hello"
    answer = subprocess.run(["curl", "-s", url], capture_output=True, check=True).stdout
    assert json.loads(answer)["code"] == "forbidden"


@pytest.mark.parametrize("name", ["Master", "Volume"])
def test_the_dockerfiles_are_where_the_commands_look_for_them(name: str) -> None:
    content = (ROOT / "dockers" / f"Dockerfile{name}").read_text()
    assert (
        f"docker build --rm -f dockers/Dockerfile{name} -t varidb_{name.lower()}:latest ."
        in content
    )
