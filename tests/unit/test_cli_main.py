"""The command line as a whole: registry, help, exit codes, documentation."""

import errno
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pulzar.cli import COMMANDS, pulzar
from pulzar.cli.exit import BUG, EXIT_CODES, NO_SPACE, Answer, exit_code, message, run
from pulzar.cli.output import cell_text, print_json, print_table, printable, size_text
from pulzar.errors import (
    ConditionFailed,
    Damage,
    InvalidSetting,
    KeyNotFound,
    OutcomeUnknown,
    OutOfSpace,
    PulzarError,
    VolumeInUse,
    VolumeReadOnly,
)

DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def command_of(name: str) -> click.Command:
    found = importlib.import_module(f"pulzar.cli.{name}").command
    assert isinstance(found, click.Command)
    return found


def every_error() -> list[type[PulzarError]]:
    found = list(PulzarError.__subclasses__())
    for kind in found:
        found += kind.__subclasses__()
    return found


def raising(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_registry_names_the_command_and_its_help(name: str) -> None:
    command = command_of(name)
    assert command.name == name
    assert command.help is not None
    assert command.help.split("\n\n")[0].replace("\n", " ") == COMMANDS[name]


def test_registry_lists_every_command_of_the_package() -> None:
    folder = Path(str(importlib.import_module("pulzar.cli").__file__)).parent
    modules = {path.stem for path in folder.glob("*.py") if "\ndef command(" in path.read_text()}
    assert modules == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_that_prints_has_json(name: str) -> None:
    for command in with_subcommands(name):
        options = {option for parameter in command.params for option in parameter.opts}
        is_json = name not in {"up", "master", "volume", "demo"} and command.name != "logs"
        assert ("--json" in options) == is_json


def with_subcommands(name: str) -> list[click.Command]:
    """A command, or those that a group has."""
    command = command_of(name)
    return list(command.commands.values()) if isinstance(command, click.Group) else [command]


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from pulzar.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted(name for name in sys.modules if name.startswith('pulzar')))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    loaded = output.splitlines()[-1]
    assert "'pulzar.cli'" in loaded
    assert not any(f"'pulzar.cli.{name}'" in loaded for name in COMMANDS)
    assert "store" not in loaded


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pulzar, ["--version"]) == 0
    assert re.fullmatch(r"pulzar \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_an_exit_code(kind: type[PulzarError]) -> None:
    assert exit_code(kind("what")) not in (0, BUG)


@pytest.mark.parametrize(
    ("error", "number", "said"),
    [
        (KeyNotFound("there is no key a"), 1, "there is no key a"),
        (ConditionFailed("no"), 1, "no"),
        (InvalidSetting("two\nlines"), 2, "two lines"),
        (OutcomeUnknown("lost"), 3, "lost"),
        (OutOfSpace("full"), 4, "full"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 4, "/x: No space left on device"),
        (Damage("bad"), 5, "bad"),
        (VolumeInUse("in use"), 6, "in use"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 6, "/x: Permission denied"),
        (click.FileError("/x", "gone"), 6, "Could not open file '/x': gone"),
        (VolumeReadOnly("/v cannot: [Errno 13] denied: '/v/L'"), 6, "/v cannot: /v/L: denied"),
        (VolumeReadOnly("/v cannot: [Errno 13] denied"), 6, "/v cannot: denied"),
        (ValueError("oops"), 70, "oops"),
    ],
)
def test_error_ends_in_one_line_and_its_exit_code(
    capsys: pytest.CaptureFixture[str], error: Exception, number: int, said: str
) -> None:
    assert run(raising(error), []) == number
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1] == f"pulzar: {said}"
    assert (len(output.err.splitlines()) > 1) == (number == BUG)


def test_interrupt_and_closed_pipe_end_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(KeyboardInterrupt()), []) == 130
    assert run(raising(click.Abort()), []) == 130
    assert run(raising(Answer(NO_SPACE)), []) == NO_SPACE
    output = capsys.readouterr()
    assert (output.out, output.err.strip()) == ("", "")


def test_output_into_a_closed_pipe_is_no_traceback() -> None:
    code = (
        "from pulzar.cli.exit import run; import click\n"
        "@click.command()\n"
        "def command():\n"
        "    for n in range(100000): click.echo(n)\n"
        "raise SystemExit(run(command, []))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=10) == 141


def test_wrong_use_says_what_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pulzar, ["config", "--jsn"]) == 2
    assert "--json" in capsys.readouterr().err
    assert run(pulzar, ["confg"]) == 2
    assert "config" in capsys.readouterr().err


def test_message_of_an_error_without_words() -> None:
    assert message(Damage()) == "Damage"


def test_output_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [("x\ty", None), (1, True)])
    print_json({"key": "ü", "size": 1})
    assert capsys.readouterr().out == 'x\\ty\t\n1\tyes\n{"key":"ü","size":1}\n'


def test_control_characters_never_reach_a_terminal() -> None:
    assert printable("a\x1b[0m\n\x9bü\u3000\ud800") == "a\\x1b[0m\\n\\x9bü\u3000\\ud800"
    assert cell_text("a\nb") == "a\\nb"


def test_sizes_for_people() -> None:
    assert [size_text(size) for size in (0, 1023, 1024, 1048575, 5 << 30, 3 << 50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.0 MiB",
        "5.0 GiB",
        "3.0 PiB",
    ]


def sections() -> dict[str, str]:
    """The text under each `## pulzar NAME` of docs/cli.md."""
    parts = re.split(r"^## pulzar ([a-z]+)$", DOCUMENT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_document_has_every_command_in_order() -> None:
    assert list(sections()) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_document_has_every_option_and_argument(name: str) -> None:
    section = sections()[name]
    options: set[str] = set()
    for command, parameter in [(c, p) for c in with_subcommands(name) for p in c.params]:
        if isinstance(parameter, click.Option):
            options |= set(parameter.opts)
            if parameter.envvar:
                assert f"`{parameter.envvar}`" in DOCUMENT
        else:
            assert parameter.make_metavar(click.Context(command)) in section
    documented = set(re.findall(r"^\| `(-[^ `]*)", section, flags=re.MULTILINE))
    documented |= set(re.findall(r"^\| `-[^|]*?`, `(-[^ `]*)", section, flags=re.MULTILINE))
    assert documented == options


def test_document_has_the_exit_codes() -> None:
    documented = re.findall(r"^\| (\d+) \| (.*) \|$", DOCUMENT, flags=re.MULTILINE)
    assert documented == [(str(code.number), code.meaning) for code in EXIT_CODES]


def test_json_of_config_is_one_object_per_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pulzar, ["config", "--app", str(tmp_path), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    port = next(row for row in rows if row["variable"] == "PULZAR_SERVER_PORT")
    assert port["value"] == 9000
    assert port["origin"] == "default"
