"""The checker of tests/test_tidy.py can fail: each rule meets a small source that breaks it."""

import pytest

from tests.test_tidy import COLUMNS_MAX, FILE_LINES_MAX, FUNCTION_LINES_MAX, problems

HEAD = '"""What it is."""\n'
LOG = "pulzar/varidb/log.py"
UNFINISHED = "TO" + "DO"


def long_function(lines: int) -> str:
    return "def long():\n" + "    x = 1\n" * (lines - 1)


BAD = {
    "up_one_layer": (LOG, "import pulzar.varidb.volume\n", "not below it"),
    "up_from_import": (LOG, "from pulzar.varidb import volume\n", "not below it"),
    "up_relative": (LOG, "from . import volume\n", "not below it"),
    "up_to_http": (LOG, "from pulzar.http.app import App\n", "not below it"),
    "same_line": ("pulzar/varidb/index.py", "import pulzar.varidb.catalog\n", "not below it"),
    "root": (LOG, "from pulzar import __version__\n", "root package"),
    "testing": (LOG, "from pulzar.testing.disk import SimulatedDisk\n", "imports pulzar.testing"),
    "homeless": ("pulzar/varidb/unheard_of.py", "", "no place in LAYERS"),
    "long_file": (LOG, "x = 1\n" * FILE_LINES_MAX, "lines; a file"),
    "long_line": (LOG, "x = '" + "y" * COLUMNS_MAX + "'\n", "columns"),
    "long_function": (LOG, long_function(FUNCTION_LINES_MAX + 1), "over the budget"),
    "pure_await": ("pulzar/varidb/record.py", "async def f(x):\n    await x\n", "awaits"),
    "pure_os": ("pulzar/varidb/record.py", "import os.path\n", "pure module imports os.path"),
    "pure_random": ("pulzar/http/ranges.py", "from random import choice\n", "imports random"),
    "pure_open": ("pulzar/varidb/record.py", "open('x')\n", "pure module opens"),
    "environ": (LOG, "import os\nos.environ['A']\n", "environment"),
    "getenv": ("pulzar/cli/up.py", "from os import getenv\n", "environment"),
    "open": (LOG, "with open('x') as f: pass\n", "open files"),
    "os_open": ("pulzar/http/app.py", "import os\nos.open('x', 0)\n", "open files"),
    "read_text": (LOG, "from pathlib import Path\nPath('x').read_text()\n", "open files"),
    "lmdb": ("pulzar/varidb/index.py", "import lmdb\nlmdb.open('x')\n", "open files"),
    "time": (LOG, "import time\ntime.monotonic()\n", "clock.py"),
    "time_from": (LOG, "from time import time\n", "clock.py"),
    "datetime": ("pulzar/http/dates.py", "import datetime\ndatetime.datetime.now()\n", "clock.py"),
    "today": ("pulzar/http/dates.py", "from datetime import date\ndate.today()\n", "clock.py"),
    "name_file": ("pulzar/http/utils.py", "", "says nothing"),
    "name_package": ("tests/common/test_x.py", "", "says nothing"),
    "print": ("pulzar/http/app.py", "print(1)\n", "print outside"),
    "bare": (LOG, "try:\n    pass\nexcept:\n    pass\n", "catches everything"),
    "broad": (
        LOG,
        "try:\n    pass\nexcept (KeyError, Exception):\n    pass\n",
        "catches everything",
    ),
    "noqa": (LOG, "try:\n    pass\nexcept Exception:  # noqa: BLE001\n    pass\n", "catches every"),
    "suppress": (LOG, "import contextlib\ncontextlib.suppress(Exception)\n", "catches everything"),
    "local": (LOG, "def f():\n    import json\n", "inside a function"),
    "unfinished": (LOG, f"# {UNFINISHED}: later\n", "unfinished"),
}

GOOD = {
    "down": (LOG, "from pulzar.errors import Damage\nfrom pulzar.varidb import record\n"),
    "inside_http": ("pulzar/http/app.py", "from pulzar.http.keys import Keys\n"),
    "testing_sees_all": ("pulzar/testing/disk.py", "from pulzar.cli.up import up\n"),
    "tests_see_all": ("tests/unit/test_x.py", "import pulzar.testing.disk\n"),
    "long_enough": (LOG, long_function(FUNCTION_LINES_MAX)),
    "comments_are_free": (LOG, long_function(FUNCTION_LINES_MAX) + "    # why\n\n" * 20),
    "docstring_is_free": (LOG, 'def f():\n    """' + "\n    word" * 80 + '\n    """\n'),
    "disk_open": (LOG, "def f(disk):\n    disk.open('x')\n"),
    "loop_time": ("pulzar/http/app.py", "def f(loop):\n    return loop.time()\n"),
    "config_environment": ("pulzar/config.py", "import os\nos.environ\n"),
    "user_files": ("pulzar/cli/put.py", "open('x')\n"),
    "reason": (
        LOG,
        "try:\n    pass\nexcept Exception:  # whatever it is, the lock must go\n    pass\n",
    ),
    "extra": (
        LOG,
        "def f():\n    try:\n        import rich\n    except ImportError:\n        pass\n",
    ),
    "cli_prints": ("pulzar/cli/ls.py", "print(1)\n"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_source_is_found(name: str) -> None:
    path, body, expected = BAD[name]
    neighbours = {
        f"pulzar/varidb/{other}.py": HEAD for other in ("volume", "log") if other not in path
    }
    found = problems({path: HEAD + body, **neighbours})
    assert [sentence for sentence in found if expected in sentence and path in sentence], found


@pytest.mark.parametrize("name", GOOD)
def test_a_good_source_is_left_alone(name: str) -> None:
    path, body = GOOD[name]
    assert problems({path: HEAD + body}) == []


def test_a_file_without_a_docstring_is_found() -> None:
    assert problems({LOG: "x = 1\n"}) == [f"{LOG}:1: a file opens with what it is and how it works"]


def test_a_cycle_is_found_also_inside_one_package() -> None:
    found = problems(
        {
            "pulzar/http/a.py": HEAD + "import pulzar.http.b\n",
            "pulzar/http/b.py": HEAD + "from pulzar.http import c\n",
            "pulzar/http/c.py": HEAD + "from .a import x\n",
            "pulzar/http/d.py": HEAD + "from .a import x\n",
        }
    )
    assert found == [f"pulzar.http.{name}: is in a cycle of imports" for name in "abc"]
