"""What exists is documented, and what is documented exists.

Commands, options, exit codes and settings have their own test beside the code that they come from
(tests/unit/test_cli_main.py, tests/unit/test_config.py); here are endpoints, error codes, links
and the names of source files.
"""

import re

import pytest

from pulzar import errors
from pulzar.cluster import messages
from pulzar.http import agents, autodiscovery, files, master_app, skynet, volume_app
from pulzar.jobs import messages as job_messages
from tests.docs.fences import ROOT, documents

# cluster/messages.py, jobs/messages.py and http/files.py draw them
INSIDE = {**autodiscovery.PATHS, **skynet.PATHS, **agents.PATHS, **files.PATHS}
PATHS = {path: row for path, row in master_app.PATHS.items() if path not in INSIDE}
HTTP_API = ROOT / "docs" / "http-api.md"
# Files that README and docs may name although they are the user's, or come later.
OURS = re.compile(r"`((?:pulzar|tests|bench|docs|app)/[\w./-]+\.(?:py|md|conf|c))`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def all_errors(
    kind: type[errors.PulzarError] = errors.PulzarError,
) -> list[type[errors.PulzarError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in all_errors(child))]


@pytest.mark.parametrize("path", PATHS)
def test_endpoint_is_documented_with_its_methods(path: str) -> None:
    content = HTTP_API.read_text()
    for method in PATHS[path][0]:
        assert re.search(rf"\b{method}\b.*{re.escape(path)}", content), f"{method} {path}"


def test_endpoints_inside_the_cluster_are_drawn() -> None:
    drawing = f"{messages.__doc__}{job_messages.__doc__}{files.__doc__}"
    for path in INSIDE:
        for method in INSIDE[path][0]:
            assert re.search(rf"{method} +{re.escape(path)}\s", drawing), f"{method} {path}"


def test_paths_of_a_volume_are_documented() -> None:
    content = (ROOT / "docs" / "cluster.md").read_text()
    for path in set(volume_app.PATHS) - set(INSIDE) - {"/delete_key/{key}"}:
        assert path in content


def test_documented_endpoints_exist() -> None:
    named = set(re.findall(r"`(?:[A-Z|]+ )(/[\w/{}]+)`", HTTP_API.read_text()))
    assert named <= set(PATHS), named - set(PATHS)


# Met at the start, before there is a server to answer; docs/cli.md has their exit codes.
AT_THE_START: set[type[errors.PulzarError]] = {
    errors.InvalidSetting,
    errors.NotAVolume,
    errors.SegmentMissing,
    errors.VolumeInUse,
    errors.VolumeReadOnly,
    errors.VolumeTooNew,
}
ANSWERED = [error for error in all_errors() if error not in AT_THE_START]


@pytest.mark.parametrize("error", ANSWERED, ids=lambda error: error.__name__)
def test_error_code_is_documented_with_its_status(error: type[errors.PulzarError]) -> None:
    rows = [line for line in HTTP_API.read_text().splitlines() if f"`{error.code}`" in line]
    assert any(f"| {error.status} |" in row for row in rows), f"{error.status} {error.code}"


def test_errors_are_drawn_as_they_are() -> None:
    drawing = (errors.__doc__ or "").split("\n\n")[1]
    drawn = {}
    above: list[str] = []
    for line in drawing.splitlines():
        name = re.search(r"[A-Z]\w+", line)
        assert name is not None, line
        depth = (name.start() - 4) // 4
        del above[depth:]
        drawn[name[0]] = above[-1] if above else "Exception"
        above.append(name[0])
    bases = {error.__name__: error.__bases__[0].__name__ for error in all_errors()}
    assert drawn == bases


@pytest.mark.parametrize("page", documents())
def test_links_and_source_files_exist(page: str) -> None:
    content = (ROOT / page).read_text()
    folder = (ROOT / page).parent
    links = [link for link in LINK.findall(content) if "://" not in link]
    missing = [link for link in links if not (folder / link).exists()]
    missing += [name for name in OURS.findall(content) if not (ROOT / name).exists()]
    assert missing == []
