"""The scripts that a new site has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pulzar.cli.init import make_site
from pulzar.client.process import Server
from pulzar.disk import SystemDisk
from tests.jobs.conftest import Site

pytestmark = pytest.mark.slow


@pytest.fixture
def new_site(site: Site, tmp_path: Path) -> Iterator[Site]:
    make_site(SystemDisk(), str(tmp_path / "app"))
    options = ["--app", str(tmp_path / "app")]
    with Server(str(tmp_path / "data"), options=options) as server:
        site.url = server.url
        for key in ("texts/a", "texts/b", "other"):
            site.http.request("PUT", f"{server.url}/add_key/{key}", body=b"two words\nthree\n")
        yield site


def launch(site: Site, script: str, body: bytes) -> int:
    status, answer = site.ask("POST", f"/launch_job/examples/{script}", body)
    assert status == 201, answer
    number: int = answer["job_id"]
    return number


def test_they_do_what_they_say(new_site: Site) -> None:
    site = new_site
    added = site.ended(launch(site, "example_01", b'{"arg1": "12", "arg2": "20"}'))
    assert added["output"] == {"sum": 32}
    path = "/launch_jobs/examples/word_count"
    whole = site.ended(site.ask("POST", path, b'{"pulzar_keys": "texts/"}')[1]["job_id"])
    assert (whole["status"], whole["count"]) == ("ready", 2)
    counted = site.ended(launch(site, "word_count", b'{"key": "other"}'))
    assert counted["output"] == {"key": "other", "lines": 2, "words": 3}
    kept = site.ended(launch(site, "clean_up", b'{"prefix": "texts/", "days": 1}'))
    assert kept["output"] == {"deleted": 0}
    cleaned = site.ended(launch(site, "clean_up", b'{"prefix": "texts/", "days": -1}'))
    assert cleaned["output"] == {"deleted": 2}
    assert [one["key"] for one in site.ask("GET", "/list_keys/")[1]["keys"]] == ["other"]
    refused = site.ended(launch(site, "clean_up", b'{"prefix": "", "days": 1}'))
    assert (refused["status"], "a prefix" in refused["error"]) == ("failed", True)
