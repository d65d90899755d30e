"""Who may be a member, and how one goes: over the network as everybody else would."""

import json
import shutil
from pathlib import Path

import pytest
import urllib3

from pulzar.errors import NotReady
from pulzar.testing.machines import Machine, Machines
from tests.cluster.conftest import MakeMachines
from tests.cluster.keys import Keys

pytestmark = pytest.mark.slow


def refused(machines: Machines, machine: Machine) -> str:
    """Start a volume that its master does not want; what it said at its end."""
    try:
        machine.start()
    except NotReady as error:
        return str(error)
    machines.wait(lambda: not machine.processes())
    return machine.log()


def test_the_network_has_the_shape_of_the_specification(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=2)
    network = machines.get("/admin/network")
    assert [node["node"] for node in network] == ["v0", "v1"]
    for node in network:
        assert list(node) == ["node", "percent", "synch"]
        assert type(node["percent"]) is int
        assert 0 <= node["percent"] <= 100
        assert node["synch"] is True
        assert machines.get(f"/admin/network/{node['node']}") == node
    unknown = http.request("GET", f"{machines.master.url}/admin/network/nobody")
    assert (unknown.status, unknown.json()["code"]) == (404, "unknown_node")
    machines.volumes[1].kill()
    machines.wait(lambda: machines.online() == {"v0"})
    assert machines.get("/admin/network/v1")["synch"] is False


def test_without_the_key_everything_inside_is_forbidden(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=1)
    paths = [
        ("POST", f"{machines.master.url}/skynet/heartbeat"),
        ("GET", f"{machines.volumes[0].url}/autodiscovery/hello"),
        ("POST", f"{machines.volumes[0].url}/autodiscovery/append"),
        ("PUT", f"{machines.volumes[0].url}/autodiscovery/upload/{'a' * 32}"),
    ]
    for method, url in paths:
        for headers in ({}, {"Authorization": "Bearer " + "0" * 64}):
            answer = http.request(method, url, headers=headers, body=b"x")
            assert (answer.status, answer.json()["code"]) == (403, "forbidden")


def test_who_is_refused_ends_and_says_why(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=2)
    other = make_machines(volumes=1)
    stranger = machines.add_volume()
    stranger._arguments[stranger._arguments.index("--key-file") + 1] = other.key_file
    assert "has another key than" in refused(machines, stranger)
    # Of another cluster, with the right key.
    keys = Keys(other, http)
    keys.fill(5)
    assert other.volumes[0].terminate() == 0
    foreign = machines.add_volume()
    shutil.copytree(other.volumes[0].directory, foreign.directory)
    Path(foreign.directory, "cluster.key").unlink()
    assert "belongs to another cluster" in refused(machines, foreign)
    # A name that another volume has, which is online.
    twin = machines.add_volume()
    twin._arguments[twin._arguments.index("--name") + 1] = "v0"
    assert "is named v0" in refused(machines, twin)
    # A second program on a copy of a volume that is online.
    copy = machines.add_volume()
    shutil.copytree(machines.volumes[0].directory, copy.directory)
    assert "runs already" in refused(machines, copy)
    assert machines.online() == {"v0", "v1"}


def test_a_volume_waits_where_its_master_is_not_itself_for_a_while(
    make_machines: MakeMachines, http: urllib3.PoolManager, tmp_path: Path
) -> None:
    machines = make_machines(volumes=1)
    keys = Keys(machines, http)
    keys.fill(10)
    (volume,) = machines.volumes
    machines.master.kill()
    port = int(machines.master.url.rsplit(":", 1)[1])
    data = str(tmp_path / "another")
    another = Machine("another", data, ["master", "--data", data], "127.0.0.1", port=port)
    another.start()
    machines.wait(lambda: "has another key than" in volume.log())
    assert "does not carry the cluster's key" in another.log()
    another.kill()
    machines.master.start()
    machines.wait(lambda: machines.online() == {"v0"})
    keys.check()


def test_a_volume_that_names_no_master_ends_and_says_so(make_machines: MakeMachines) -> None:
    machines = make_machines(volumes=1)
    lost = machines.add_volume()
    lost._arguments[lost._arguments.index("--master") + 1] = machines.volumes[0].url
    assert "there is no master at" in refused(machines, lost)


def test_a_volume_of_one_machine_joins_as_it_is_but_only_as_the_first(
    make_machines: MakeMachines, http: urllib3.PoolManager, tmp_path: Path
) -> None:
    data = str(tmp_path / "lone")
    lone = Machine("up", data, ["up", "--data", data], "127.0.0.1")
    lone.start()
    for number in range(20):
        url = f"{lone.url}/add_key/old-{number}"
        assert http.request("PUT", url, body=b"from before").status == 201
    assert http.request("DELETE", f"{lone.url}/delete_key/old-3").status == 200
    assert lone.terminate() == 0
    machines = make_machines(volumes=2, started=False)
    first, second = machines.volumes
    for volume in (first, second):
        shutil.copytree(tmp_path / "lone" / "volume", Path(volume.directory) / "volume")
    machines.start_master()
    first.start()
    machines.wait_ready()
    keys = Keys(machines, http)
    assert keys.get("old-7") == b"from before"
    assert keys.get("old-3") is None
    before = http.request("GET", f"{machines.master.url}/get_key/old-7").headers["ETag"]
    assert keys.put("old-7", b"new") == 200
    assert keys.versions["old-7"] > before.strip('"')
    # A copy of the same volume, which runs.
    assert "runs already" in refused(machines, second)


def test_a_machine_that_was_alone_is_joined(
    make_machines: MakeMachines, http: urllib3.PoolManager, tmp_path: Path
) -> None:
    machines = make_machines(volumes=2, replicas=2, started=False)
    data = str(tmp_path / "up")
    arguments = ["up", "--config", machines._config, "--data", data]
    machines.master = Machine("up", data, arguments, "127.0.0.1")
    machines.master.start()
    keys = Keys(machines, http)
    keys.fill(20)
    assert set(keys.copies.values()) == {"1/1"}
    (alone,) = machines.get("/admin/network")
    shutil.copy(f"{data}/cluster.key", machines.key_file)
    for volume in machines.volumes:
        volume._arguments[volume._arguments.index("--master") + 1] = machines.master.url
        volume.start()
    machines.wait(lambda: machines.online() == {alone["node"], "v0", "v1"})
    newest = max(keys.versions.values())
    assert keys.put("after", b"it was joined") == 201
    assert keys.versions["after"] > newest
    assert keys.copies["after"] == "2/2"
    machines.wait_redundant(2)
    keys.check()
    machines.master.kill()
    machines.master.start()
    machines.wait(lambda: machines.online() == {alone["node"], "v0", "v1"})
    machines.wait(lambda: machines.get("/readyz"))
    keys.fill(10, prefix="again")
    assert keys.copies["again-0"] == "2/2"
    keys.check()
    machines.master.kill()  # without its list of members it is not alone: its volume knows
    Path(data, "cluster.json").unlink()
    machines.master.start()
    machines.wait(lambda: machines.get("/readyz"))
    machines.wait(lambda: machines.online() == {alone["node"], "v0", "v1"})
    keys.check()


def test_a_machine_stays_alone_where_nobody_may_join(
    make_machines: MakeMachines, http: urllib3.PoolManager, tmp_path: Path
) -> None:
    machines = make_machines(volumes=1, started=False)
    data = str(tmp_path / "up")
    machines.master = Machine("up", data, ["up", "--data", data], "127.0.0.1")
    machines.master.start()
    keys = Keys(machines, http)
    keys.fill(5)
    shutil.copy(f"{data}/cluster.key", machines.key_file)
    other = Machine(
        "other", str(tmp_path / "o"), ["up", "--data", str(tmp_path / "o")], "127.0.0.1"
    )
    other.start()
    assert http.request("PUT", f"{other.url}/add_key/a", body=b"x").status == 201
    assert other.terminate() == 0
    (volume,) = machines.volumes
    shutil.copytree(tmp_path / "o" / "volume", Path(volume.directory) / "volume")
    volume._arguments[volume._arguments.index("--master") + 1] = machines.master.url
    assert "only the first volume may bring its data" in refused(machines, volume)
    assert "on this machine" in machines.get("/admin/health")["sentence"]
    keys.check()


def test_a_volume_is_drained_and_removed(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=3, replicas=2)
    keys = Keys(machines, http)
    keys.fill(30)
    would = machines.post("/admin/cluster/drain/v1?dry_run=1")
    assert (would["done"], would["node"]) == (False, "v1")
    assert would["keys"] > 0
    early = machines.post("/admin/cluster/remove/v1?dry_run=1")
    assert early["keys_under_replicated"] == early["keys"] > 0
    assert machines.post("/admin/cluster/drain/v1")["done"]
    machines.wait(lambda: held(machines, "v1") == 0)
    machines.wait_redundant(2)
    machines.wait(lambda: not machines.post("/admin/cluster/remove/v1?dry_run=1")["loses"])
    assert machines.post("/admin/cluster/remove/v1")["done"]
    assert machines.online() == {"v0", "v2"}
    machines.volumes[1].kill()
    keys.check()
    # It had data once: it joins with an empty directory only.
    assert "was removed from this cluster" in refused(machines, machines.volumes[1])
    machines.volumes[1].wipe()
    machines.volumes[1].start()
    machines.wait(lambda: machines.online() == {"v0", "v1", "v2"})
    assert machines.post("/admin/cluster/drain/v1")["done"]
    machines.wait(lambda: held(machines, "v1") == 0)
    short = machines.post("/admin/cluster/drain/v2?dry_run=1")
    assert short["keys_under_replicated"] == short["keys"] > 0
    assert "too few volumes are left then" in short["sentence"]
    assert machines.post("/admin/cluster/drain/v1?stop=1")["done"]
    assert machines.post("/admin/cluster/drain/v2")["done"]
    machines.wait(lambda: held(machines, "v2") == 0)
    machines.wait_redundant(2)
    keys.check()


def held(machines: Machines, name: str) -> int:
    cluster = machines.get("/admin/cluster")
    return next(int(node["keys"]) for node in cluster["nodes"] if node["node"] == name)


def test_the_only_copy_of_a_key_is_given_up_only_if_told_so(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=2)
    keys = Keys(machines, http)
    keys.fill(60, sizes=(60_000,))  # some runs of keys, so that some are on each volume
    machines.volumes[0].kill()
    machines.wait(lambda: machines.online() == {"v1"})
    url = f"{machines.master.url}/admin/cluster/remove/v0"
    refusal = http.request("POST", url)
    assert (refusal.status, refusal.json()["code"]) == (409, "conflict")
    would = http.request("POST", f"{url}?lost=1&dry_run=1").json()
    assert would["keys_only_here"] == held(machines, "v0") > 0
    assert machines.get("/admin/health")["status"] == "critical"
    assert http.request("POST", f"{url}?lost=1").json()["done"]
    health = machines.get("/admin/health")
    assert health["keys_lost"] == would["keys_only_here"]
    codes = set()
    for key, value in keys.kept.items():
        answer = http.request("GET", f"{machines.master.url}/get_key/{key}")
        codes.add(answer.status)
        if answer.status == 503:
            assert answer.json()["code"] == "damaged"
        elif value is None:
            assert answer.status == 404
        else:
            assert answer.data == value
    assert codes == {200, 404, 503}


def set_format(path: Path, number: int) -> None:
    """Let a file say that it was written by another version."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format": number}))


def test_what_another_version_wrote_is_left_alone(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=2, replicas=2)
    keys = Keys(machines, http)
    keys.fill(20)
    volume = machines.volumes[1]
    assert volume.terminate() == 0
    identity = Path(volume.directory, "volume", "volume.json")
    set_format(identity, 2)
    assert "has format 2; this version of Pulzar reads up to 1" in refused(machines, volume)
    set_format(identity, 0)
    assert "has format 0; this version of Pulzar reads 1" in refused(machines, volume)
    keys.check()
    set_format(identity, 1)
    volume.start()
    machines.wait(lambda: machines.online() == {"v0", "v1"})
    assert machines.master.terminate() == 0
    state = Path(machines.master.directory, "cluster.json")
    for number in (2, 0):
        set_format(state, number)
        assert f"has format {number}; this version" in refused(machines, machines.master)
    set_format(state, 1)
    machines.master.start()
    machines.wait_redundant(2)
    keys.check()
