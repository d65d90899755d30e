"""`pulzar job`: launch jobs, and see what becomes of them."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module
from typing import Any
from urllib.parse import quote, urlencode

import click

from pulzar.cli.exit import NO, Answer
from pulzar.cli.options import app_option, config_option, json_option, master_option
from pulzar.cli.output import (
    note,
    print_json,
    print_line,
    print_table,
    printable,
    stderr_is_terminal,
    time_text,
)
from pulzar.client.sync import Client
from pulzar.config import load
from pulzar.disk import SystemDisk
from pulzar.errors import Conflict, PulzarError, UsageError
from pulzar.jobs.scripts import NAME
from pulzar.jobs.states import FINISHED

id_argument = click.argument("job_id", metavar="ID", type=click.IntRange(min=1))

WAITING = ("pending", "running")
WAIT_S = 0.5

EXAMPLE = '''\
"""What this job does. Launch it with: pulzar job launch {name} word=hello"""

from pulzar import job


def execute(arguments):
    """`arguments` is what the launch gave, a dict; what this returns is the job's output."""
    word = arguments.get("word", "nothing")
    print("this goes to the job's log:", word)

    # A value of VariDB as a file, and back:
    # with open(job.open("some/key"), "rb") as file:
    #     job.put("another/key", file.read())

    job.progress(1, 1, "done")
    return {{"word": word, "length": len(word)}}
'''


@click.group("job")
def command() -> None:
    """Launch jobs, and see what becomes of them."""


@command.command("launch")
@click.argument("script", metavar="DIR/SCRIPT")
@click.argument("arguments", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--wait", is_flag=True, help="Wait for its end; show its log and its output.")
@click.option("--retries", type=int, metavar="N", help="Try so often again after a failure.")
@click.option("--timeout", type=float, metavar="SECONDS", help="End it when it takes longer.")
@click.option("--priority", type=int, metavar="N", help="Larger ones go first. Default: 0.")
@click.option("--data", metavar="KEY", help="Run it on a node that has this key.")
@click.option("--require-data", is_flag=True, help="And nowhere else.")
@click.option("--on-lost", type=click.Choice(["fail", "retry"]), help="What if its node dies.")
@click.option("--map", "prefix", metavar="PREFIX", help="A job for each key under a prefix.")
@click.option("--every", metavar="N UNIT", help="Again and again: 5 minutes, 12 hours, 1 days.")
@click.option("--cron", metavar="TEXT", help="At the times of a cron text: 30 6 * * mon-fri.")
@click.option("--at", metavar="TIME", help="Once, at a time: 2026-12-24T09:00.")
@click.option("--timezone", metavar="ZONE", help="For --every, --cron, --at. Default: UTC.")
@master_option
@json_option
def launch(
    script: str,
    arguments: tuple[str, ...],
    wait: bool,
    retries: int | None,
    timeout: float | None,
    priority: int | None,
    data: str | None,
    require_data: bool,
    on_lost: str | None,
    prefix: str | None,
    every: str | None,
    cron: str | None,
    at: str | None,
    timezone: str | None,
    master: str,
    as_json: bool,
) -> None:
    """Launch jobs/DIR/SCRIPT.py of the master's site.

    A VALUE is JSON where it can be read as that, and text elsewhere: n=3 is a number, word=hello a
    text. Prints the job's id. With --wait its log goes to stderr while it runs and its output, as
    JSON, to stdout; the exit code is 1 where it did not end well. With --map there is a job for
    each key under a prefix, which has it as argument "key" and runs where it is; --wait shows the
    output of each.
    """
    body = dict(_argument(text) for text in arguments)
    ours = {
        "pulzar_retries": retries,
        "pulzar_timeout": timeout,
        "pulzar_priority": priority,
        "pulzar_data": data,
        "pulzar_data_policy": "require" if require_data else None,
        "pulzar_on_lost": on_lost,
        "pulzar_keys": prefix,
        "scheduled": _scheduled(every, cron, at, timezone) or None,
    }
    body |= {name: value for name, value in ours.items() if value is not None}
    if wait and "scheduled" in body:
        raise UsageError("--wait is for a job, and this is a schedule")
    verb = "launch_job" if prefix is None else "launch_jobs"
    with Client(master) as client:
        job = client.ask("POST", f"/{verb}/{quote(script)}", body)
        if not wait:
            print_json(job) if as_json else print_line(str(job["job_id"]))
        elif prefix is None:
            _wait(client, job["job_id"], master, as_json)
        else:
            _wait_for_all(client, job["job_id"], as_json)


def _wait(client: Client, number: int, master: str, as_json: bool) -> None:
    """Show what a job writes, on a terminal with how far it says it is, and then its output."""
    if stderr_is_terminal():
        _follow_with_bar(client, number, master)
    else:
        _follow(client, number, sys.stderr.buffer)
    ended = client.admin("GET", f"jobs/{number}")
    if as_json:
        print_json(ended)
    elif ended["status"] == "ready":
        print_line(json.dumps(ended["output"], ensure_ascii=False))
    if ended["status"] != "ready":
        note(f"job {number} is {ended['status']}: {ended['error']}")
        raise Answer(NO)


def _wait_for_all(client: Client, number: int, as_json: bool) -> None:
    """Show how far the jobs of a map are, and then what each of them gave."""
    pause = threading.Event()
    with _bar(f"job {number}") as bar:
        while (shown := client.admin("GET", f"jobs/{number}"))["status"] in WAITING:
            ended = sum(shown["states"].get(state, 0) for state in FINISHED)
            bar.show(f"job {number}: {_counts(shown)}", ended, shown["count"]) if bar else None
            pause.wait(WAIT_S)
    for line in b"".join(client.text(f"/admin/jobs/{number}/results")).splitlines():
        result = json.loads(line)
        print_json(result) if as_json else print_line(json.dumps(result["output"]))
    if shown["status"] != "ready":
        note(f"job {number} is {shown['status']}: {_counts(shown)}")
        raise Answer(NO)


@contextmanager
def _bar(title: str) -> Iterator[Any]:
    """A bar on a terminal, None elsewhere."""
    if not stderr_is_terminal():
        yield None
        return
    # Drawing takes rich, which costs more time than most commands: only people pay for it.
    with import_module("pulzar.cli.bar").shown(title) as bar:
        yield bar


def _follow_with_bar(client: Client, number: int, master: str) -> None:
    """Write a job's log above a bar, which another thread keeps up to date."""
    is_over = threading.Event()
    with _bar(f"job {number}") as bar, Client(master) as looking:

        def look() -> None:
            while not is_over.wait(WAIT_S):
                with suppress(PulzarError):  # the next look may be answered
                    job = looking.admin("GET", f"jobs/{number}")
                    words = (f"job {number}", job["status"], job["reason"], job["note"])
                    title = " ".join(printable(word) for word in words if word)
                    is_known = job["progress"] is not None
                    bar.show(title, job["progress"] or 0.0, 1.0 if is_known else None)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            for piece in client.text(f"/admin/jobs/{number}/log?follow=1"):
                bar.write(piece.decode(errors="replace"))
        finally:
            is_over.set()
            thread.join()


def _counts(shown: dict[str, Any]) -> str:
    return ", ".join(f"{count} {state}" for state, count in shown["states"].items())


@command.command("list")
@click.option("--status", metavar="STATE", help="Only jobs in this state.")
@click.option("--name", metavar="SCRIPT", help="Only jobs of this script.")
@click.option("--limit", type=int, default=100, show_default=True, help="So many of each kind.")
@master_option
@json_option
def list_(status: str | None, name: str | None, limit: int, master: str, as_json: bool) -> None:
    """List jobs, the newest first: those that wait or run, that are ready, that failed; schedules,
    with the time of their next run."""
    query = {"limit": limit, "status": status, "name": name}
    asked = urlencode({name: value for name, value in query.items() if value is not None})
    with Client(master) as client:
        found = client.admin("GET", f"jobs?{asked}")
    if as_json:
        print_json(found)
        return
    rows = [
        (
            job["job_id"],
            job["job_name"],
            job["status"],
            job["node"],
            time_text(datetime.fromtimestamp(job["creation_time"], UTC)),
            job["parameters"],
        )
        for group in ("pendings", "ready", "failed")
        for job in found[group]
    ]
    rows += [
        (
            job["job_id"],
            job["job_name"],
            job["status"],
            f"{job['interval']} {job['time_unit']}",
            job["next_execution"],
            job["parameters"],
        )
        for job in found["scheduled"]
    ]
    print_table(("job", "script", "status", "node", "launched", "arguments"), rows)


@command.command("show")
@id_argument
@master_option
@json_option
def show(job_id: int, master: str, as_json: bool) -> None:
    """Show what is known of a job: its state, where it ran, its output or its error."""
    with Client(master) as client:
        job = client.admin("GET", f"jobs/{job_id}")
    if as_json:
        print_json(job)
        return
    rows = [(name, _shown(value)) for name, value in job.items() if value not in (None, "", {})]
    print_table(("name", "value"), rows)
    if job["traceback"]:
        click.echo(job["traceback"], err=True)


@command.command("logs")
@id_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@master_option
def logs(job_id: int, follow: bool, master: str) -> None:
    """Show what a job wrote to stdout and stderr."""
    with Client(master) as client:
        _follow(client, job_id, sys.stdout.buffer, follow=follow)


@command.command("cancel")
@id_argument
@master_option
@json_option
def cancel(job_id: int, master: str, as_json: bool) -> None:
    """End a job, waiting or running; returns when that is sure."""
    with Client(master) as client:
        job = client.ask("POST", f"/cancel_job/{job_id}")
    print_json(job) if as_json else note(f"job {job_id} is {job['status']}")


@command.command("retry")
@id_argument
@master_option
@json_option
def retry(job_id: int, master: str, as_json: bool) -> None:
    """Run a job that has ended once more, with the script as it is now."""
    with Client(master) as client:
        job = client.ask("POST", f"/retry_job/{job_id}")
    print_json(job) if as_json else note(f"job {job_id} is {job['status']}")


@command.command("new")
@click.argument("script", metavar="DIR/SCRIPT")
@app_option
@config_option
@json_option
def new(script: str, app: str | None, config: str | None, as_json: bool) -> None:
    """Write an example of a script into the site's folder of jobs."""
    disk = SystemDisk()
    directory, _, name = script.removesuffix(".py").partition("/")
    if not (NAME.fullmatch(directory) and NAME.fullmatch(name)):
        raise UsageError(f"{script}: give DIR/SCRIPT, of letters, digits, dashes and underscores")
    folder = os.path.join(load(disk, app=app, file=config).jobs_dir, directory)
    path = os.path.join(folder, f"{name}.py")
    os.makedirs(folder, exist_ok=True)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(EXAMPLE.format(name=f"{directory}/{name}"))
    except FileExistsError:
        raise Conflict(f"{path} is there already") from None
    print_json({"path": path}) if as_json else print_line(path)


def _scheduled(
    every: str | None, cron: str | None, at: str | None, timezone: str | None
) -> dict[str, Any]:
    """The key `scheduled` of a launch; empty where there is none."""
    scheduled: dict[str, Any] = {}
    if every is not None:
        number, _, unit = every.strip().partition(" ")
        scheduled |= {"interval": unit.strip(), "time_unit": number, "repeat": 1}
    if cron is not None:
        scheduled["cron"] = cron
    if at is not None:
        scheduled["at"] = at
    if timezone is not None:
        scheduled["timezone"] = timezone
    return scheduled


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{text!r}: give arguments as name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _follow(client: Client, job_id: int, target: Any, *, follow: bool = True) -> None:
    for piece in client.text(f"/admin/jobs/{job_id}/log?follow={int(follow)}"):
        target.write(piece)
        target.flush()


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
