"""Jobs as a user sees them: one machine, real processes, requests as of curl."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import psutil
import pytest

from pulzar.client.process import Server
from tests.jobs.conftest import Site

pytestmark = pytest.mark.slow


def agent_of(server: Server) -> psutil.Process:
    """The process of its agent."""
    return next(one for one in server.processes() if "jobs.agent" in " ".join(one.cmdline()))


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that only waits to be seen to by its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_job_is_launched_shown_and_ends(site: Site, server: Server) -> None:
    site.script("def execute(arguments):\n    print('hello')\n    return arguments\n", "example_01")
    answer = site.http.request(
        "POST",
        f"{server.url}/launch_job/d/example_01",
        body=b'{"arg1": "12", "arg2": "20", "pulzar_retries": 1}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    launched = json.loads(answer.data)
    assert answer.status == 201
    assert (launched["job_id"], launched["status"]) == (1, "pending")
    assert answer.headers["Location"] == "/admin/jobs/1"
    job = site.ended(1)
    assert (job["status"], job["attempts"], job["error"]) == ("ready", 1, None)
    assert job["output"] == {"arg1": "12", "arg2": "20"}
    assert site.http.request("GET", f"{server.url}/admin/jobs/1/log").data == b"hello\n"
    status, listed = site.ask("GET", "/admin/jobs")
    assert status == 200
    assert list(listed) == ["pendings", "ready", "failed", "scheduled"]
    (shown,) = listed["ready"]
    assert shown == {
        "job_id": 1,
        "job_name": "example_01",
        "parameters": '{"arg1": "12", "arg2": "20"}',
        "node": job["node"],
        "creation_time": shown["creation_time"],
        "status": "ready",
    }
    assert isinstance(shown["creation_time"], int)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", job["created"])


def test_what_is_asked_wrongly_is_answered_with_what_to_do(site: Site, server: Server) -> None:
    for method, path, body, status, told in (
        ("POST", "/launch_job/d/t", b"", 404, "there is s"),
        ("POST", "/launch_job/e/s", b"", 404, "there is d"),
        ("POST", "/launch_job/d/..%2f..%2fs", b"", 404, "no script"),
        ("POST", "/launch_job/%2e%2e/s", b"", 404, "no directory"),
        ("POST", "/launch_job/d", b"", 404, "no script"),
        ("POST", "/launch_job/d/s", b"[]", 400, "JSON object"),
        ("POST", "/launch_job/d/s", b"x" * (1 << 20) + b"x", 413, "larger"),
        ("POST", "/launch_job/d/s?now=1", b"", 400, "now"),
        ("POST", "/launch_job/d/s", b'{"pulzar_retries": "1"}', 400, "whole number"),
        ("GET", "/launch_job/d/s", b"", 405, "POST"),
        ("GET", "/admin/jobs/7", b"", 404, "no job 7"),
        ("GET", "/admin/jobs/seven", b"", 404, "an id is a number"),
        ("GET", "/admin/jobs/1/logs", b"", 404, "log"),
        ("GET", "/admin/jobs?limit=0", b"", 400, "limit"),
        ("GET", "/admin/jobs?status=done", b"", 400, "pending"),
        ("GET", "/admin/jobs?after=x", b"", 400, "after"),
        ("POST", "/cancel_job/7", b"", 404, "no job 7"),
        ("POST", "/retry_job/x", b"", 404, "number"),
    ):
        found, answer = site.ask(method, path, body)
        assert (found, told in answer["detail"]) == (status, True), (path, answer)
    assert site.ask("GET", "/admin/jobs")[1]["pendings"] == []


def test_schedules_are_listed_as_the_specification_says_run_and_are_cancelled(
    site: Site, server: Server
) -> None:
    site.script("def execute(arguments):\n    return arguments\n")
    scheduled = {"interval": "minutes", "time_unit": 5, "repeat": 1}
    body = json.dumps({"arg1": 12, "arg2": 225798, "scheduled": scheduled}).encode()
    status, answer = site.ask("POST", "/launch_job/d/s", body)
    assert (status, answer["job_id"], answer["status"]) == (201, 1, "scheduled")
    (shown,) = site.ask("GET", "/admin/jobs")[1]["scheduled"]
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"
    assert re.fullmatch(stamp, shown.pop("creation_time"))
    assert re.fullmatch(stamp, shown.pop("next_execution"))
    assert shown == {
        "job_id": 1,
        "job_name": "s",
        "parameters": '{"arg1": 12, "arg2": 225798}',
        "interval": "minutes",
        "time_unit": "5",
        "repeat": 1,
        "status": "scheduled",
    }
    soon = datetime.now(UTC) + timedelta(seconds=1)
    body = json.dumps({"x": 1, "scheduled": {"at": soon.isoformat()}}).encode()
    assert site.ask("POST", "/launch_job/d/s", body)[1]["job_id"] == 2
    assert site.ask("GET", "/admin/jobs/2")[1]["interval"] == "at"
    site.until(lambda: site.ask("GET", "/admin/jobs/3")[0] == 200, "it is launched")
    assert site.ended(3)["output"] == {"x": 1}
    status, answer = site.ask("POST", "/cancel_job/1")
    assert (status, answer["status"]) == (200, "cancelled")
    assert site.ask("GET", "/admin/jobs")[1]["scheduled"] == []
    bad = b'{"scheduled": {"interval": "seconds", "time_unit": 5}}'
    status, answer = site.ask("POST", "/launch_job/d/s", bad)
    assert (status, "minutes, hours" in answer["detail"]) == (400, True)


def test_a_map_runs_a_script_for_every_key_under_a_prefix(site: Site, server: Server) -> None:
    site.script(
        "from pulzar import job\n"
        "def execute(arguments):\n"
        "    with open(job.open(arguments['key'])) as file:\n"
        "        return len(file.read().split())\n",
        "count",
    )
    for number in range(20):
        body = b"word " * number
        site.http.request("PUT", f"{server.url}/add_key/texts/{number:02}", body=body)
    status, answer = site.ask("POST", "/launch_jobs/d/count", b'{"pulzar_keys": "texts/"}')
    assert (status, answer["count"], answer["job_id"]) == (201, 20, 1)
    whole = site.ended(1)
    assert (whole["status"], whole["states"]) == ("ready", {"ready": 20})
    lines = site.http.request("GET", f"{server.url}/admin/jobs/1/results").data.splitlines()
    assert [json.loads(line)["output"] for line in lines] == list(range(20))
    assert [one["job_id"] for one in site.ask("GET", "/admin/jobs")[1]["ready"]] == [1]
    assert site.ask("POST", "/launch_jobs/d/count", b"{}")[0] == 400
    assert site.ask("POST", "/launch_jobs/d/coun", b"[{}]")[0] == 404
    assert site.ask("GET", "/admin/jobs/1/log")[0] == 404


def test_a_job_is_cancelled_followed_and_retried(site: Site, server: Server) -> None:
    site.script(
        "import time\n"
        "from pulzar import job\n"
        "def execute(arguments):\n"
        "    for step in range(arguments['steps']):\n"
        "        print('step', step)\n"
        "        job.progress(step, arguments['steps'], 'on its way')\n"
        "        time.sleep(0.02)\n"
        "    return 'through'\n",
        "slow",
    )
    number = site.launch("slow", steps=100_000)
    site.until(lambda: site.job(number)["note"] == "on its way", "it says how far it is")
    log = f"{server.url}/admin/jobs/{number}/log"
    site.until(lambda: b"step 1\n" in site.http.request("GET", log).data, "its log grows")
    status, answer = site.ask("POST", f"/cancel_job/{number}")
    assert (status, answer["status"]) == (200, "cancelled")
    assert site.ask("POST", f"/cancel_job/{number}")[0] == 409
    short = site.launch("slow", steps=20)
    whole = "".join(f"step {step}\n" for step in range(20)).encode()
    path = f"{server.url}/admin/jobs/{short}/log?follow=1"
    assert site.http.request("GET", path).data == whole
    assert site.job(short)["output"] == "through"
    status, again = site.ask("POST", f"/retry_job/{short}")
    assert (status, again["status"]) == (200, "pending")
    assert site.ended(short)["attempts"] == 2
    failed = site.ask("GET", "/admin/jobs?status=cancelled")[1]
    assert [one["job_id"] for one in failed["failed"]] == [number]
    assert failed["ready"] == []


def test_scripts_read_and_write_values_beside_them(site: Site, server: Server) -> None:
    site.script(
        "from pulzar import job\n"
        "def execute(arguments):\n"
        "    with open(job.open('in put'), 'rb') as file:\n"
        "        content = file.read()\n"
        "    job.put('output', content.upper())\n"
        "    return len(content)\n"
    )
    site.http.request("PUT", f"{server.url}/add_key/in%20put", body=b"words")
    assert site.ended(site.launch())["output"] == 5
    assert site.http.request("GET", f"{server.url}/get_key/output").data == b"WORDS"


def test_jobs_are_not_seen_as_keys(site: Site, server: Server) -> None:
    site.ended(site.launch(journal=str(site.journal)))
    assert site.ask("GET", "/list_keys/")[1]["keys"] == []
    assert site.ask("GET", "/admin/status")[1]["entries"] == 0
    assert site.ask("GET", "/get_key/%00jobs/0000000000000001")[0] == 400


def test_a_changed_script_is_picked_up_by_the_next_launch(site: Site, server: Server) -> None:
    for word in ("one", "two"):
        site.script(f"def execute(arguments):\n    return '{word}'\n")
        assert site.ended(site.launch())["output"] == word


def test_the_same_idempotency_key_gives_the_same_job(site: Site, server: Server) -> None:
    body = json.dumps({"journal": str(site.journal)}).encode()
    headers = {"Idempotency-Key": "once"}

    def launch(_: int) -> int:
        status, answer = site.ask("POST", "/launch_job/d/s", body, **headers)
        assert status == 201
        number: int = answer["job_id"]
        return number

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(launch, range(16))) == {1}
    site.ended(1)
    assert site.lines() == ["1 1 begins", "1 1 ends"]


def test_kill_9_of_the_agent_loses_what_ran_and_nothing_else(site: Site, server: Server) -> None:
    running = site.launch(journal=str(site.journal), seconds=1000, pulzar_on_lost="fail")
    again = site.launch(journal=str(site.journal), seconds=0.5, pulzar_on_lost="retry")
    site.until(lambda: len(site.lines()) == 2, "both have begun")
    agent = agent_of(server)
    children = agent.children(recursive=True)
    agent.kill()
    assert site.ended(running)["status"] == "lost"
    assert (site.ended(again)["status"], site.job(again)["attempts"]) == ("ready", 2)
    site.until(lambda: not any(map(is_alive, children)), "its children have ended")


def test_kill_9_of_everything_forgets_no_job_and_starts_none_twice(
    site: Site, server: Server
) -> None:
    accepted: list[int] = []
    for round_ in range(4):
        arguments = {"journal": str(site.journal), "pulzar_on_lost": "retry"}
        accepted += [site.launch(**arguments, seconds=0.01 * round_) for _ in range(30)]
        site.until(partial(site.has_lines, 10 * (round_ + 1)), "some have run")
        server.kill()
        server.start()
        site.url = server.url
    for number in accepted:
        assert site.ended(number)["status"] == "ready"
    begun = [line for line in site.lines() if line.endswith("begins")]
    assert len(begun) == len(set(begun)), "an attempt was started twice"
    ended = {line.split()[0] for line in site.lines() if line.endswith("ends")}
    assert ended == {str(number) for number in accepted}
    assert len(set(accepted)) == len(accepted)
