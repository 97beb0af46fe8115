"""The shape of the code: who imports whom, who touches the machine, and how long things may get.

The rules are docs/architecture.md's. Each check is a function from source text to complaints, tried
here on text that breaks it, and then applied to every module there is.
"""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Lowest first. A module may import what is below it and, of its own layer, its own package only.
LAYERS: Final = (
    {"schema", "frames", "version", "flags"},
    {"config", "config_results", "model", "protocol", "views"},
    {
        *("hostfs", "kernel", "samples", "buffer", "clock", "conflicts", "settings", "config_text"),
        *("codec", "documents", "http_line"),
    },
    {"collectors", "workloads", "analysis"},
    {"runtime", "exposition", "replay", "doctor", "load"},
    {"__main__"},
)
LEVEL: Final = {part: level for level, layer in enumerate(LAYERS) for part in layer}
# What a part may import of its own layer nevertheless.
BESIDE: Final = {
    "hostfs": {"samples"},
    "buffer": {"samples"},
    "config": {"config_results"},
    "protocol": {"config_results"},
    "clock": {"samples"},
    "config_text": {"settings"},
    "kernel": {"samples", "hostfs", "clock"},
    "doctor": {"runtime"},
    "replay": {"runtime"},
    "runtime": {"exposition"},
    "settings": {"conflicts"},
    "views": {"model"},
}
CLIENT_MAY_IMPORT: Final = {
    *(
        "schema",
        "config",
        "config_results",
        "config_text",
        "flags",
        "frames",
        "model",
        "protocol",
        "version",
    ),
}
# analysis is a pure function of its arguments: it neither reads a clock nor waits nor speaks.
ANALYSIS_MAY_IMPORT: Final = {
    *("schema", "config", "flags", "model", "samples", "views", "analysis"),
}
IMPURE: Final = {
    *("io", "logging", "multiprocessing", "os", "pathlib", "queue", "random", "secrets", "select"),
    *("shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time"),
}
# The parts that need numpy; everything else must start without it.
NUMERIC: Final = {"analysis", "kernel", "samples", "codec"}
LAZY: Final = {"bcc", "prometheus_client", "pynvml", "pyroute2", "pystemd", "rich"}
HEAVY: Final = ("numpy", "requests", "rich", "prometheus_client", "pystemd")
# Code that takes what it knows of the machine through hostfs; the settings name its roots.
OPENS_NOTHING: Final = {"collectors", "kernel", "workloads"}
NAMES_ROOTS: Final = {"hostfs", "config", "conflicts"}
# hostfs refuses this name at run time; the line that says so is the only one that may hold it.
ENVIRON_GUARD: Final = '_FORBIDDEN_NAME: Final = "environ"'
MODULE_CAP: Final = 400
FUNCTION_CAP: Final = 40

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)

Check = Callable[["Module"], list[str]]


class Module(NamedTuple):
    """One module's dotted name and text; `is_package` where it is an `__init__`."""

    name: str
    text: str
    is_package: bool = False

    @property
    def part(self) -> str:
        """Return the piece of the project it is: `collectors` for tychod.collectors.rapl."""
        pieces = self.name.split(".")
        return pieces[1] if len(pieces) > 1 else ""


def read_modules(*packages: str) -> list[Module]:
    """Read every module of these packages, named as Python names them."""
    found = []
    for path in sorted(p for package in packages for p in (ROOT / package).rglob("*.py")):
        pieces = path.relative_to(ROOT).with_suffix("").parts
        if pieces == ("tychod", "_build"):
            continue  # written into built copies, imported by nobody
        is_package = pieces[-1] == "__init__"
        name = ".".join(pieces[:-1] if is_package else pieces)
        found.append(Module(name, path.read_text(), is_package))
    return found


DAEMON = read_modules("tychod")
CLIENT = read_modules("tychoctl")
BOTH = DAEMON + CLIENT
SIZED = BOTH + read_modules("tests/sim", "tests/bench")

parse = functools.cache(ast.parse)


def told(check: Check, modules: Sequence[Module]) -> dict[str, list[str]]:
    """Return what a rule has to say, by module; one test a rule, as each test has a price."""
    return {m.name: complaints for m in modules if (complaints := check(m))}


def find_imports(module: Module, *, at_start: bool = False) -> Iterator[str]:
    """Yield the dotted name of everything imported; `at_start`: only what runs at import."""
    tree = parse(module.text)
    for node in walk_start(tree) if at_start else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve(module, node)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def walk_start(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run when a module is imported: no function's body, no typing block."""
    for node in ast.iter_child_nodes(tree):
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not isinstance(node, FUNCTIONS) and not is_typing:
            yield node
            yield from walk_start(node)


def resolve(module: Module, node: ast.ImportFrom) -> str:
    """Return the absolute name of what a `from` statement imports from."""
    if not node.level:
        return node.module or ""
    package = module.name.split(".")
    if not module.is_package:
        package = package[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def find_parts(module: Module) -> Iterator[str]:
    """Yield the parts of the daemon that a module imports; the package itself is no part."""
    for name in find_imports(module):
        pieces = name.split(".")
        if pieces[0] == "tychod" and len(pieces) > 1 and not pieces[1].startswith("__version"):
            yield pieces[1]


def layer_complaints(module: Module) -> list[str]:
    """Say which imports of a daemon module go up or sideways."""
    if not module.part:
        return [f"the package itself imports {part}" for part in find_parts(module)]
    if module.part not in LEVEL:
        return [f"{module.part} is in no layer; docs/architecture.md and LAYERS name them all"]
    allowed = {module.part, *BESIDE.get(module.part, ())}
    allowed |= {part for part, level in LEVEL.items() if level < LEVEL[module.part]}
    return [f"imports {part}" for part in find_parts(module) if part not in allowed]


def collector_complaints(module: Module) -> list[str]:
    """Say which collectors a collector imports; the table of all of them is the package's own.

    One collector may be several modules, as nvml and nvml_fields; the publish lock serves several.
    """
    if not module.name.startswith("tychod.collectors."):
        return []
    family = module.name.partition("_")[0]
    allowed = ("tychod.collectors.base", "tychod.collectors.publish", family)
    names = (name for name in find_imports(module) if name.startswith("tychod.collectors"))
    return [f"imports {name}" for name in names if not name.startswith(allowed)]


def analysis_complaints(module: Module) -> list[str]:
    """Say what makes a module of the analysis impure."""
    if module.part != "analysis":
        return []
    impure = [name for name in find_imports(module) if name.partition(".")[0] in IMPURE]
    parts = [part for part in find_parts(module) if part not in ANALYSIS_MAY_IMPORT]
    calls = [call for call in find_calls(module) if call in {"open", "print", "input"}]
    return [*impure, *parts, *calls]


def find_calls(module: Module) -> Iterator[str]:
    """Yield the callee of each call, as it is written."""
    for node in ast.walk(parse(module.text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func)


def find_strings(module: Module) -> Iterator[str]:
    """Yield each string in the code, pieces of f-strings too, documentation left out."""
    tree = parse(module.text)
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def machine_complaints(module: Module) -> list[str]:
    """Say where a daemon module goes round hostfs to the kernel's files."""
    found = []
    if module.part not in NAMES_ROOTS:
        found += [text for text in find_strings(module) if re.match(r"/(proc|sys)(/|$)", text)]
    if module.part in OPENS_NOTHING:
        found += [call for call in find_calls(module) if call in {"open", "os.open", "io.open"}]
    return found


def environ_complaints(module: Module) -> list[str]:
    """Say where a path of a process's environment is made; secrets live there."""
    if module.part == "hostfs":
        module = module._replace(text=module.text.replace(ENVIRON_GUARD, ""))
    return [text for text in find_strings(module) if re.search(r"(^|/)environ\b", text)]


def client_complaints(module: Module) -> list[str]:
    """Say which parts of the daemon a client module may not import."""
    return [part for part in find_parts(module) if part not in CLIENT_MAY_IMPORT]


def start_complaints(module: Module) -> list[str]:
    """Say which libraries are imported at start that must wait until they are needed."""
    numeric = set() if module.part in NUMERIC and module.name.startswith("tychod.") else {"numpy"}
    tops = (name.partition(".")[0] for name in find_imports(module, at_start=True))
    return [top for top in tops if top in LAZY | numeric]


def size_complaints(module: Module) -> list[str]:
    """Say what is longer than it may be; a docstring does not count, being no code."""
    lines = module.text.count("\n")
    functions = (node for node in ast.walk(parse(module.text)) if isinstance(node, FUNCTIONS))
    long = [f"{f.name}: {count_lines(f)} lines" for f in functions if count_lines(f) > FUNCTION_CAP]
    return [f"{lines} lines", *long] if lines > MODULE_CAP else long


def count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines from `def` to the end, without the docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def test_imports_go_down() -> None:
    """A daemon module imports lower layers only; a client module the contracts only."""
    assert told(layer_complaints, DAEMON) == {}
    assert told(client_complaints, CLIENT) == {}


def test_collectors_do_not_know_each_other() -> None:
    """A collector can be removed without touching another one."""
    assert told(collector_complaints, DAEMON) == {}


def test_analysis_is_pure() -> None:
    """Analysis reads no clock, no file and no thread's state: a recording replays exactly."""
    assert told(analysis_complaints, DAEMON) == {}


def test_only_hostfs_opens_the_kernels_files() -> None:
    """Every path below /proc and /sys is made and opened in one place, below settable roots."""
    assert told(machine_complaints, DAEMON) == {}


def test_no_process_environment_is_read() -> None:
    """/proc/PID/environ holds other people's secrets and is never opened."""
    assert told(environ_complaints, BOTH) == {}


def test_heavy_and_optional_libraries_wait_until_needed() -> None:
    """A library that may be missing or is slow to load is imported where it is used."""
    assert told(start_complaints, BOTH) == {}


def test_modules_and_functions_stay_short() -> None:
    """A module has at most 400 lines, a function at most 40."""
    assert told(size_complaints, SIZED) == {}


def test_the_client_starts_without_heavy_libraries() -> None:
    """`tychoctl` loads none of the libraries that only the daemon or `top` needs."""
    program = (
        "import sys, pkgutil, tychoctl\n"
        "names = [m.name for m in pkgutil.iter_modules(tychoctl.__path__)]\n"
        "[__import__('tychoctl.' + name) for name in names]\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == []


BROKEN = (
    (layer_complaints, Module("tychod.schema", "import tychod.config")),
    (layer_complaints, Module("tychod.model", "from tychod import protocol")),
    (layer_complaints, Module("tychod.collectors.rapl", "from tychod.workloads import units")),
    (layer_complaints, Module("tychod.collectors.rapl", "from ..analysis import bins")),
    (layer_complaints, Module("tychod.collectors", "from ..runtime import logs", is_package=True)),
    (layer_complaints, Module("tychod.hostfs", "def f():\n    from tychod.kernel import core")),
    (layer_complaints, Module("tychod.utilities", "")),
    (layer_complaints, Module("tychod", "from tychod import schema", is_package=True)),
    (collector_complaints, Module("tychod.collectors.rapl", "from . import hwmon")),
    (collector_complaints, Module("tychod.collectors.rapl", "from tychod.collectors import hwmon")),
    (collector_complaints, Module("tychod.collectors.rapl", "import tychod.collectors.hwmon")),
    (analysis_complaints, Module("tychod.analysis.bins", "import os.path")),
    (analysis_complaints, Module("tychod.analysis.bins", "from time import monotonic_ns")),
    (analysis_complaints, Module("tychod.analysis.bins", "from tychod.hostfs import Tree")),
    (analysis_complaints, Module("tychod.analysis.bins", "open('x')")),
    (machine_complaints, Module("tychod.runtime.logs", "p = '/proc/self/stat'")),
    (machine_complaints, Module("tychod.workloads.units", "p = f'/sys/{x}'")),
    (machine_complaints, Module("tychod.kernel.cgroups", "import os\nos.open(path, 0)")),
    (environ_complaints, Module("tychod.hostfs", "p = f'/proc/{pid}/environ'")),
    (environ_complaints, Module("tychod.hostfs", "p = 'environ'")),
    (environ_complaints, Module("tychod.kernel.exits", ENVIRON_GUARD)),
    (client_complaints, Module("tychoctl.tables", "from tychod.samples import Zone")),
    (start_complaints, Module("tychod.runtime.server", "import pystemd.systemd1")),
    (start_complaints, Module("tychoctl.tables", "import numpy as np")),
    (start_complaints, Module("tychod.protocol", "if True:\n    import numpy")),
    (size_complaints, Module("tychod.model", "x = 1\n" * 401)),
    (size_complaints, Module("tychod.model", "def f():\n" + "    x = 1\n" * 40)),
)
SOUND = (
    (layer_complaints, Module("tychod.kernel.cgroups", "from tychod import hostfs, samples")),
    (layer_complaints, Module("tychod.runtime.server", "from . import logs\nimport tychod.model")),
    (layer_complaints, Module("tychod.version", "from tychod import __version__")),
    (collector_complaints, Module("tychod.collectors.rapl", "from .base import Ready")),
    (collector_complaints, Module("tychod.collectors.rapl", "from . import base")),
    (collector_complaints, Module("tychod.collectors", "from . import rapl", is_package=True)),
    (analysis_complaints, Module("tychod.analysis.bins", "import numpy\nfrom . import idle")),
    (machine_complaints, Module("tychod.kernel.cgroups", '"""Reads /proc/stat."""\n')),
    (machine_complaints, Module("tychod.hostfs", "open('/proc/stat')")),
    (environ_complaints, Module("tychod.config", "import os\nos.environ['environment']")),
    (environ_complaints, Module("tychod.hostfs", ENVIRON_GUARD)),
    (client_complaints, Module("tychoctl.tables", "from tychod import model, __version__")),
    (start_complaints, Module("tychod.workloads.units", "def f():\n    import pystemd")),
    (start_complaints, Module("tychod.analysis.bins", "import numpy as np")),
    (
        size_complaints,
        Module("tychod.model", "def f():\n    '''a\n    b'''\n" + "    x = 1\n" * 39),
    ),
)


@pytest.mark.parametrize(("check", "module"), BROKEN)
def test_each_rule_finds_what_breaks_it(check: Check, module: Module) -> None:
    """A check that could not fail would hold nothing."""
    assert check(module) != []


@pytest.mark.parametrize(("check", "module"), SOUND)
def test_no_rule_forbids_what_is_sound(check: Check, module: Module) -> None:
    """A rule that complains about sound code would be worked around."""
    assert check(module) == []
