"""The containers, built and run where buildah and podman are, and a base image with Python.

PULZAR_TEST_BASE names the image (`localhost/base:latest`): without it nothing is built, since an
image would have to be fetched.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
import yaml  # type: ignore[import-untyped]  # dask brings it

from pulzar.clock import SystemClock
from tests.docs.fences import ROOT

BASE = os.environ.get("PULZAR_TEST_BASE", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not BASE or shutil.which("buildah") is None or shutil.which("podman") is None,
        reason="buildah, podman and PULZAR_TEST_BASE are needed",
    ),
]
RUN = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", "--detach"]
RUN += ["--network", "host", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]
SHARED = ["/etc/ssl/certs", "/etc/pip.conf"]  # of this machine, for pip
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def images() -> list[str]:
    """Build both, by the specification's command as far as buildah has it."""
    names = []
    for name in ("Master", "Volume"):
        image = f"varidb_{name.lower()}:latest"
        command = ["buildah", "bud", "--isolation", "chroot", "--format", "docker", "--layers"]
        command += ["--build-arg", f"BASE={BASE}"]
        command += [f"--volume={path}:{path}:ro" for path in SHARED if os.path.exists(path)]
        command += ["--rm", "-f", f"dockers/Dockerfile{name}", "-t", image, "."]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        names.append(image)
    return names


@pytest.fixture
def running(images: list[str], tmp_path: Path) -> Iterator[list[str]]:
    started: list[str] = []
    yield started
    for name in started:
        subprocess.run(["podman", "rm", "--force", name], check=False, capture_output=True)


def start(running: list[str], image: str, *options: str, arguments: tuple[str, ...] = ()) -> str:
    command = [*RUN, *options, image, *arguments]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    running.append(name)
    return name


def test_a_master_and_a_volume_in_containers(
    images: list[str], running: list[str], tmp_path: Path
) -> None:
    for name in ("master", "volume"):
        (tmp_path / name).mkdir()
        os.chmod(tmp_path / name, 0o777)
    master, volume = images
    container = start(running, master, "-v", f"{tmp_path}/master:/data")
    wait(200, "healthz")
    assert subprocess.run(["podman", "healthcheck", "run", container], check=False).returncode == 0
    user = ["podman", "exec", container, "id", "-un"]
    assert subprocess.run(user, capture_output=True, text=True, check=True).stdout == "pulzar\n"
    mounts = ["-v", f"{tmp_path}/volume:/data", "-v", f"{tmp_path}/master:/key:ro"]
    start(running, volume, *mounts, arguments=("--master", "http://127.0.0.1:9000"))
    wait(200, "readyz")
    url = "http://127.0.0.1:9000"
    assert urllib3.request("PUT", f"{url}/add_key/k", body=b"v").status == 201
    assert urllib3.request("GET", f"{url}/get_key/k").data == b"v"
    for name in running:
        subprocess.run(["podman", "stop", "--time", "20", name], check=True, capture_output=True)
    assert (tmp_path / "volume" / "volume" / "volume.json").exists()


def test_the_services_of_the_compose_file(
    images: list[str], running: list[str], tmp_path: Path
) -> None:
    """Started by podman, on the network of this machine, so with ports of their own."""
    services = yaml.safe_load((ROOT / "dockers" / "compose.yaml").read_text())["services"]
    assert {service["image"] for service in services.values()} == set(images)
    for number, (name, service) in enumerate(services.items()):
        (tmp_path / name).mkdir()
        os.chmod(tmp_path / name, 0o777)
        options = ["-v", f"{tmp_path}/{name}:/data"]
        options += [f"--env={key}={value}" for key, value in service.get("environment", {}).items()]
        if name == "master":
            start(running, service["image"], *options)
            wait(200, "healthz")
            continue
        options += ["-v", f"{tmp_path}/master:/key:ro"]
        here = [
            word.replace("master:9000", "127.0.0.1:9000").replace(
                f"{name}:9001", f"127.0.0.1:{9000 + number}"
            )
            for word in service["command"]
        ]
        start(running, service["image"], *options, arguments=(*here, "--port", str(9000 + number)))
    wait(200, "readyz")
    url = "http://127.0.0.1:9000"
    until_online = set(services) - {"master"}
    clock = SystemClock()
    end_s = clock.monotonic_s() + DEADLINE_S
    while True:
        network = urllib3.request("GET", f"{url}/admin/network").json()
        if {node["node"] for node in network if node["synch"]} == until_online:
            break
        assert clock.monotonic_s() < end_s, network
        threading.Event().wait(0.1)
    answer = urllib3.request("PUT", f"{url}/add_key/k", body=b"v")
    assert answer.headers["Pulzar-Copies"] == "2/2"
    for name in running:
        subprocess.run(["podman", "stop", "--time", "20", name], check=True, capture_output=True)


def wait(status: int, path: str) -> None:
    clock = SystemClock()
    end_s = clock.monotonic_s() + DEADLINE_S
    while True:
        try:
            if urllib3.request("GET", f"http://127.0.0.1:9000/{path}").status == status:
                return
        except urllib3.exceptions.HTTPError:
            pass
        assert clock.monotonic_s() < end_s
        threading.Event().wait(0.1)
