"""`pulzar demo`: see it work, on real files, in a temporary directory; ends by itself.

Each step says what it does, and the `curl` line that would do the same. Whatever differs from what
was promised ends the demo with a sentence and exit code 5.
"""

import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import click

from pulzar.cli.init import make_site
from pulzar.client.process import Server
from pulzar.client.sync import Client
from pulzar.clock import SystemClock
from pulzar.disk import SystemDisk
from pulzar.errors import ConditionFailed, Damage, KeyNotFound

FILES_MAX = 300
LARGE_BYTES = 5 << 20
EXPIRY_S_MAX = 20.0
JOBS_S_MAX = 60.0
_PAUSE_S = 0.2


@click.command("demo")
def command() -> None:
    """See it work, on real files; ends by itself.

    Everything happens in a temporary directory and on a free port, and is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="pulzar-demo-") as directory:
        make_site(SystemDisk(), f"{directory}/app")
        server = Server(f"{directory}/data", options=["--app", f"{directory}/app"])
        try:
            _show(server)
        finally:
            server.kill()
    _say("That was all: nothing was lost, and nothing is left behind.")


def _show(server: Server) -> None:
    _say("Starting `pulzar up` on a free port.")
    server.start()
    files = _files()
    total = sum(map(len, files.values()))
    with Client(server.url) as client:
        _say(f"Storing {len(files)} files, {total:,} bytes, each fsynced before the answer.")
        _curl(f"-X PUT -L -T FILE {server.url}/add_key/demo/FILE")
        for key, content in files.items():
            client.put(key, content)
        _compare(client, files)
        _show_condition(client, server.url)
        _show_expiry(client, server.url)
    _say("Killing every process of the server with SIGKILL, and starting it again.")
    server.kill()
    server.start()
    with Client(server.url) as client:
        _compare(client, files)
        _show_jobs(client, server.url)
    _say("Stopping it in order.")
    server.terminate()


def _files() -> dict[str, bytes]:
    """Real files: the standard library of this Python, and a large one."""
    root = Path(os.__file__).parent
    paths = sorted(root.glob("*.py")) + sorted(root.glob("email/*.py"))
    files = {f"demo/{p.relative_to(root)}": p.read_bytes() for p in paths[:FILES_MAX]}
    files["demo/large"] = os.urandom(LARGE_BYTES)
    return files


def _compare(client: Client, files: dict[str, bytes]) -> None:
    _say(f"Reading {len(files)} files back and comparing every byte.")
    for key, content in files.items():
        if client.get(key) != content:
            raise Damage(f"{key} is not what was stored")


def _show_condition(client: Client, url: str) -> None:
    _say("A conditional write: two writers saw that the key is missing, one of them wins.")
    _curl(f"-X PUT -H 'If-None-Match: *' -d first {url}/add_key/leader")
    client.put("leader", b"first", if_none_match="*")
    try:
        client.put("leader", b"second", if_none_match="*")
    except ConditionFailed as error:
        _say(f"  The second one is told: 412, {error}.")
    else:
        raise Damage("both writers won")


def _show_expiry(client: Client, url: str) -> None:
    _say("A value that lives for two seconds.")
    _curl(f"-X PUT -d short '{url}/add_key/short?ttl=2s'")
    client.put("short", b"short", ttl="2s")
    clock, pause = SystemClock(), threading.Event()
    deadline = clock.monotonic_s() + EXPIRY_S_MAX
    while clock.monotonic_s() < deadline:
        try:
            client.get("short")
        except KeyNotFound:
            _say("  It is gone: 404.")
            return
        pause.wait(_PAUSE_S)
    raise Damage("the value did not expire")


def _show_jobs(client: Client, url: str) -> None:
    _say("Counting the words of every file, each in a job of its own.")
    path, body = "launch_jobs/examples/word_count", {"pulzar_keys": "demo/email/"}
    _curl(f"-X POST -d '{json.dumps(body)}' {url}/{path}")
    launched = client.ask("POST", f"/{path}", body)
    number, clock, pause = launched["job_id"], SystemClock(), threading.Event()
    deadline = clock.monotonic_s() + JOBS_S_MAX
    while (shown := client.admin("GET", f"jobs/{number}"))["status"] in ("pending", "running"):
        if clock.monotonic_s() >= deadline:
            break
        pause.wait(_PAUSE_S)
    if shown["status"] != "ready":
        raise Damage(f"the jobs are {shown['status']}: {shown['states']}")
    lines = b"".join(client.text(f"/admin/jobs/{number}/results")).splitlines()
    words = sum(json.loads(line)["output"]["words"] for line in lines)
    _curl(f"{url}/admin/jobs/{number}/results")
    _say(f"  {len(lines)} jobs: {words:,} words.")


def _say(text: str) -> None:
    click.echo(text)
    sys.stdout.flush()


def _curl(rest: str) -> None:
    click.echo(f"  curl {rest}")
