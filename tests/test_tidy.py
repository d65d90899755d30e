"""The shape of the code, held by a test: layers, budgets, seams, names, habits.

`problems(sources)` takes {path: text} and gives sentences; the tests at the end feed it this
repository, where it must find nothing, and small bad sources, where it must. Each rule is one
function over one `Module`, or over all of them, and uses the standard library's `ast` alone.

To add a module to VariDB, put its name into LAYERS above everything that it imports. An exception
is a line in EXCEPTIONS with its reason; that list may shrink and must not grow.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Lowest first. A module imports only from lines above its own; modules of one line do not import
# each other, except inside the packages of the last lines, where only cycles are forbidden.
LAYERS = """
    errors limits
    clock disk parent setting_kinds setting threads
    settings_of_store settings_of_work pipes script
    settings
    config warm_child
    varidb.crash_point varidb.record varidb.condition varidb.turns varidb.view_trust
    varidb.disk_room varidb.read_me varidb.standalone_reader
    varidb.entry varidb.position varidb.segment varidb.manifest varidb.view_probe varidb.view_files
    varidb.footer varidb.blob varidb.view varidb.catalog_row varidb.copies
    varidb.log varidb.upload varidb.catalog_page
    varidb.survey varidb.identity
    varidb.recovery
    varidb.following
    varidb.compaction varidb.sealing varidb.purge varidb.scrub varidb.check varidb.record_files
    varidb.replacement
    varidb.sweep
    varidb.index
    varidb.catalog_orders
    varidb.feed
    varidb.catalog_history varidb.watching varidb.names
    varidb.catalog_reader
    varidb.catalog
    varidb.task varidb.volume
    varidb.background varidb.commit varidb.reader
    varidb.maintenance varidb.writer
    varidb.expiry varidb.serving varidb.batching
    varidb.store
    cluster.*
    client.*
    backup.*
    jobs.*
    extensions extensions.child extensions.loader extensions.scan
    extensions.slots
    http.*
    lifetime
    job extension
    extensions.shipped extensions.shipped.example extensions.shipped.search
    program
    cli.*
"""
TESTING = "pulzar.testing"  # may import everything, and nothing in the product imports it

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60  # lines with code on them: no comments, docstrings, blank lines
COLUMNS_MAX = 100

# "path" or "path::function": why. May only shrink; EXCEPTIONS_MAX goes down with it.
EXCEPTIONS: dict[str, str] = {}
EXCEPTIONS_MAX = 0

# Decisions and formats: given bytes and values, they give bytes and values.
PURE = {
    f"pulzar.{name}"
    for name in (
        "errors",
        "limits",
        "varidb.record",
        "varidb.position",
        "varidb.condition",
        "varidb.entry",
        "varidb.catalog_row",
        "http.conditions",
        "http.ranges",
        "http.query",
        "http.batch_wire",
        "jobs.states",
        "jobs.launch",
        "jobs.changes",
        "jobs.record",
        "jobs.queue",
        "jobs.dask_lines",
        "jobs.messages",
    )
}
IMPURE_MODULES = {"os", "time", "random", "secrets", "asyncio", "socket", "threading", "subprocess"}

ENVIRONMENT_READERS = (
    "pulzar.config",
    "pulzar.warm_child",  # what a script finds there
    "pulzar.cli.watch",  # and a command
    "pulzar.pipes",
    "pulzar.script",
    "pulzar.jobs.child",
    "pulzar.extensions.child",
    TESTING,
    "tests",
    "bench",
)
FILE_OPENERS = (
    "pulzar.disk",
    "pulzar.varidb.view",
    "pulzar.varidb.view_files",
    "pulzar.varidb.standalone_reader",  # lies in a volume, without Pulzar around it
    "pulzar.varidb.view_probe",  # the throw-away child of view.py
    "pulzar.client",  # the user's files
    "pulzar.jobs.scripts",  # the user's scripts
    "pulzar.jobs.agent",  # and their copies on a node
    "pulzar.jobs.slot",  # where they run
    "pulzar.jobs.begun",  # which of them did
    "pulzar.pipes",
    "pulzar.script",
    "pulzar.warm_child",
    "pulzar.extensions.scan",  # the file of names
    "pulzar.backup.target",  # another disk
    "pulzar.job",
    "pulzar.cli",
    TESTING,
)
CLOCK_READERS = (
    "pulzar.clock",
    "pulzar.client",
    "pulzar.cli",
    "pulzar.varidb.standalone_reader",
    TESTING,
)
PRINTERS = ("pulzar.cli", "pulzar.extensions.shipped", "pulzar.varidb.standalone_reader", "bench")

BANNED_NAMES = re.compile(r"_?(utils?|core|commons?|helpers?|managers?|base|misc|stuff)")
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
OPENING_METHODS = {"read_text", "read_bytes", "write_text", "write_bytes", "fdopen", "mkstemp"}
CLOCK_CALLS = re.compile(
    r"time\.(time|monotonic|perf_counter|process_time|clock_gettime)(_ns)?"
    r"|(datetime\.)*(datetime|date)\.(now|utcnow|today)"
)

Modules = Mapping[str, "Module"]


@dataclass(frozen=True)
class Module:
    """One source file, parsed once. `name` is dotted: pulzar.varidb.record, tests.test_tidy."""

    path: str
    source: str
    tree: ast.Module = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        return self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]

    @cached_property
    def comments(self) -> dict[int, str]:
        """The comment on each line that has one, without directives to tools."""
        found = {}
        for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
            if token.type == tokenize.COMMENT:
                text = re.sub(r"#\s*(noqa|type: ignore|fmt)\S*( [A-Z]+\d+,?)*", "", token.string)
                if text.strip("# "):
                    found[token.start[0]] = text
        return found

    @cached_property
    def code_lines(self) -> set[int]:
        """The numbers of the lines with code on them."""
        lines: set[int] = set()
        quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT}
        quiet |= {tokenize.DEDENT, tokenize.ENDMARKER}
        for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
            if token.type not in quiet:
                lines.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            value = node.value if isinstance(node, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                lines.difference_update(range(value.lineno, (value.end_lineno or 0) + 1))
        return lines

    def inside(self, names: tuple[str, ...]) -> bool:
        return within(self.name, names)


def within(module_name: str, names: tuple[str, ...]) -> bool:
    """Whether a module is one of the named ones, or in one of the named packages."""
    return any(module_name == name or module_name.startswith(f"{name}.") for name in names)


def parse(sources: Mapping[str, str]) -> dict[str, Module]:
    modules = [Module(path, text, ast.parse(text, path)) for path, text in sources.items()]
    return {module.name: module for module in modules}


def imports(module: Module, modules: Modules) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports, wherever it does."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = module.package.split(".")[: len(module.package.split(".")) - node.level + 1]
                source = ".".join([*above, *filter(None, [source])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield node.lineno, full if full in modules else source


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an expression that is only names; else what can be said of its end."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield node.lineno, dotted(node.func)


def layer_of(name: str) -> int | None:
    """The line of LAYERS that a module stands on."""
    short = name.removeprefix("pulzar.")
    for number, line in enumerate(LAYERS.split("\n")):
        if short in line.split() or f"{short.partition('.')[0]}.*" in line.split():
            return number
    return None


def free_inside(name: str) -> bool:
    return f"{name.removeprefix('pulzar.').partition('.')[0]}.*" in LAYERS.split()


# Rules over one module: they give (line, sentence).

Finding = tuple[int, str]


def layers(module: Module, modules: Modules) -> Iterator[Finding]:
    """Imports go down only; testing is above everything; the root package is not imported."""
    if not module.name.startswith("pulzar."):
        return
    own = layer_of(module.name)
    in_testing = module.inside((TESTING,))
    is_package = module.path.endswith("__init__.py") and not free_inside(module.name)
    if own is None and not in_testing and not is_package:
        yield 1, "has no place in LAYERS"
    for line, name in imports(module, modules):
        if name == "pulzar":
            yield line, "imports the root package; import the module that is meant"
        if not name.startswith("pulzar.") or in_testing or own is None:
            continue
        if within(name, (TESTING,)):
            yield line, "the product imports pulzar.testing"
            continue
        other = layer_of(name)
        same_package = other == own and free_inside(name)
        if other is not None and other >= own and not same_package:
            yield line, f"imports {name}, which is not below it in LAYERS"


def file_budget(module: Module, _modules: Modules) -> Iterator[Finding]:
    lines = module.source.splitlines()
    if len(lines) > FILE_LINES_MAX and module.path not in EXCEPTIONS:
        yield len(lines), f"{len(lines)} lines; a file has at most {FILE_LINES_MAX}"
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX:
            yield number, f"{len(line)} columns; a line has at most {COLUMNS_MAX}"


def function_budget(module: Module, _modules: Modules) -> Iterator[Finding]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = len(module.code_lines & set(range(node.lineno, (node.end_lineno or 0) + 1)))
            if count > FUNCTION_LINES_MAX and f"{module.path}::{node.name}" not in EXCEPTIONS:
                yield node.lineno, f"{node.name} has {count} lines of code, over the budget"


def pure(module: Module, modules: Modules) -> Iterator[Finding]:
    """Decisions neither wait nor look at the world."""
    if module.name not in PURE:
        return
    for line, name in imports(module, modules):
        if name.partition(".")[0] in IMPURE_MODULES:
            yield line, f"a pure module imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield node.lineno, "a pure module awaits"
    yield from ((line, "a pure module opens a file") for line, to in calls(module) if to == "open")


def environment(module: Module, modules: Modules) -> Iterator[Finding]:
    if module.inside(ENVIRONMENT_READERS):
        return
    names = {"os.environ", "os.environb", "os.getenv", "os.putenv", "os.unsetenv"}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and dotted(node) in names:
            yield node.lineno, f"{dotted(node)}: only config.py reads the environment"
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            for name in sorted(names & {f"os.{alias.name}" for alias in node.names}):
                yield node.lineno, f"{name}: only config.py reads the environment"


def files(module: Module, modules: Modules) -> Iterator[Finding]:
    if not module.name.startswith("pulzar.") or module.inside(FILE_OPENERS):
        return
    for line, name in calls(module):
        opening = name in {"open", "io.open", "os.open", "lmdb.open", "lmdb.Environment"}
        if opening or name.rpartition(".")[2] in OPENING_METHODS:
            yield line, f"{name}: only disk.py and view.py open files"


def clocks(module: Module, modules: Modules) -> Iterator[Finding]:
    if not module.name.startswith("pulzar.") or module.inside(CLOCK_READERS):
        return
    for line, name in calls(module):
        if CLOCK_CALLS.fullmatch(name):
            yield line, f"{name}: only clock.py reads time"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield node.lineno, "from time import: only clock.py reads time"


def names(module: Module, _modules: Modules) -> Iterator[Finding]:
    for part in module.name.split("."):
        if BANNED_NAMES.fullmatch(part):
            yield 1, f"{part} is a name that says nothing and attracts code"


def docstrings(module: Module, _modules: Modules) -> Iterator[Finding]:
    if not ast.get_docstring(module.tree) and module.source.strip():
        yield 1, "a file opens with what it is and how it works"


def prints(module: Module, _modules: Modules) -> Iterator[Finding]:
    if module.inside(PRINTERS):
        return
    yield from ((line, "print outside of cli/") for line, name in calls(module) if name == "print")


def broad_excepts(module: Module, _modules: Modules) -> Iterator[Finding]:
    """Catching everything needs a reason, on its line."""
    broad = {"Exception", "BaseException", "builtins.Exception", "builtins.BaseException"}
    for node in ast.walk(module.tree):
        caught: list[ast.expr] = []
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            caught = [kind for kind in kinds if kind is not None]
            wide = not caught
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("suppress"):
            caught, wide = node.args, False
        else:
            continue
        wide = wide or any(dotted(kind) in broad for kind in caught)
        if wide and node.lineno not in module.comments:
            yield node.lineno, "catches everything and does not say why on that line"


def local_imports(module: Module, _modules: Modules) -> Iterator[Finding]:
    """Imports stand at the top; only an optional extra is looked for where it is used."""
    optional: set[int] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Try):
            handled = {dotted(handler.type) for handler in node.handlers if handler.type}
            if handled & {"ImportError", "ModuleNotFoundError"}:
                optional.update(id(child) for child in node.body)
    for function in ast.walk(module.tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in optional:
                    yield node.lineno, "an import inside a function"


def unfinished(module: Module, _modules: Modules) -> Iterator[Finding]:
    for number, line in enumerate(module.source.splitlines(), 1):
        if UNFINISHED.search(line):
            yield number, "an unfinished note; finish it or open an issue"


Rule = Callable[[Module, Modules], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    layers,
    file_budget,
    function_budget,
    pure,
    environment,
    files,
    clocks,
    names,
    docstrings,
    prints,
    broad_excepts,
    local_imports,
    unfinished,
)


def cycles(modules: Modules) -> Iterator[str]:
    """Every module that can reach itself through imports."""
    graph = {
        name: {target for _, target in imports(module, modules)} & modules.keys() - {name}
        for name, module in modules.items()
    }
    for start in sorted(graph):
        seen: set[str] = set()
        waiting = sorted(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting.extend(graph[name])
        if start in seen:
            yield f"{start}: is in a cycle of imports"


def problems(sources: Mapping[str, str]) -> list[str]:
    """Everything that is wrong, one sentence each."""
    modules = parse(sources)
    found = [
        f"{module.path}:{line}: {sentence}"
        for module in modules.values()
        for rule in RULES
        for line, sentence in rule(module, modules)
    ]
    return found + list(cycles(modules))


def sources_of_this_repository() -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text()
        for folder in ("pulzar", "tests", "bench")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "build" not in path.parts
    }


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return sources_of_this_repository()


@pytest.fixture(scope="module")
def modules(sources: dict[str, str]) -> dict[str, Module]:
    return parse(sources)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_this_repository_keeps_the_rule(rule: Rule, modules: dict[str, Module]) -> None:
    found = [
        f"{module.path}:{line}: {sentence}"
        for module in modules.values()
        for line, sentence in rule(module, modules)
    ]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_this_repository_has_no_cycles_of_imports(modules: dict[str, Module]) -> None:
    assert list(cycles(modules)) == []


def test_layers_and_pure_modules_name_what_exists(modules: dict[str, Module]) -> None:
    named = {f"pulzar.{name.removesuffix('.*')}" for name in LAYERS.split()} | PURE
    assert named - modules.keys() == set()


def test_exceptions_only_shrink(sources: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(EXCEPTIONS) == EXCEPTIONS_MAX, "take EXCEPTIONS_MAX down with the list"
    assert all(EXCEPTIONS.values()), "every exception has its reason"
    excused = dict(EXCEPTIONS)
    monkeypatch.setattr(f"{__name__}.EXCEPTIONS", {})
    found = problems(sources)
    for entry in excused:
        path, _, name = entry.partition("::")
        needed = re.compile(rf"{re.escape(path)}:\d+: {name}")
        assert any(map(needed.match, found)), f"{entry}: is not needed any more"
