"""The bcc backend without a kernel: what its source may hold, which headers it takes, its child."""

import ast
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest

from tychod import config
from tychod.hostfs import Host
from tychod.kernel.bpf import abi, bcc, bcc_child, child
from tychod.kernel.bpf.plan import LoadError, LoadPlan

SOURCE = (Path(__file__).resolve().parents[2] / "bpf" / "tychod.bcc.c").read_text()
CHILD = Path(bcc_child.__file__)
PLAN = LoadPlan("v2", 1, 0, (0, 0, 1, 1), 128)
RELEASE = "6.12.9-amd64"

# These answer from the running task and the CPU themselves; none takes an address of the kernel's.
HELPERS: Final = {
    *("bpf_get_current_pid_tgid", "bpf_get_current_cgroup_id", "bpf_get_smp_processor_id"),
    *("bpf_ktime_get_ns", "bpf_get_stack"),
}


def complaints(source: str) -> list[str]:
    """Say what in a program could depend on a structure of the kernel."""
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", source, flags=re.DOTALL)
    ours = set(re.findall(r"struct ty_\w+ \*(\w+)", code))
    found = [f"includes {name}" for name in re.findall(r"#\s*include\s*(\S+)", code)]
    found += [f"struct {name}" for name in re.findall(r"struct (\w+)", code) if name[:3] != "ty_"]
    found += [f"{name}->" for name in re.findall(r"(\w+)\)*\s*->", code) if name not in ours]
    found += [name for name in re.findall(r"\bbpf_\w+", code) if name not in HELPERS]
    return found


def test_the_programs_touch_no_structure_of_the_kernel() -> None:
    """With headers of another release they cannot go wrong: they use helpers and our maps only."""
    assert complaints(SOURCE) == []


@pytest.mark.parametrize(
    "line",
    [
        "#include <linux/sched.h>",
        "struct task_struct *t;",
        "int f(struct ty_cpu *s) { return task->tgid; }",
        "int f(void *ctx) { return ((unsigned *)ctx)->pid; }",
        "bpf_probe_read_kernel(&x, sizeof(x), p);",
        "x = bpf_get_current_task();",
    ],
)
def test_a_structure_of_the_kernel_would_be_found(line: str) -> None:
    """The check above can fail: each way to the kernel's memory is a complaint."""
    assert complaints(SOURCE + line) != []


def test_the_programs_make_every_map_of_the_layout() -> None:
    """Readers find the same maps whoever loaded them."""
    made = re.findall(r"^BPF_\w+\((?:\"\w+\", [^;]*?, )?(ty_\w+)(?:,|\))", SOURCE, re.MULTILINE)

    assert sorted(made) == sorted(abi.MAPS)


def test_every_program_is_attached_and_ends_come_first() -> None:
    """No program is forgotten, and none sees an interrupt's beginning without its end."""
    defined = re.findall(r"^int (ty_\w+)\(void \*ctx\)", SOURCE, re.MULTILINE)
    names = [name for name, _ in bcc_child.PROGRAMS]
    ends = [name.endswith("_out") for name in names]

    assert sorted(names) == sorted(defined)
    assert ends == sorted(ends, reverse=True)


def test_the_text_begins_with_the_layout() -> None:
    """There is one truth about the maps: the header, compiled in as it is."""
    text = bcc.program_text()

    assert text.endswith(SOURCE)
    assert text.index("struct ty_cpu {") < text.index(SOURCE)


def test_the_child_needs_python_alone() -> None:
    """It runs under the distribution's interpreter, which may be older and knows no tychod."""
    tree = ast.parse(CHILD.read_text(), feature_version=(3, 9))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])

    assert names - set(sys.stdlib_module_names) == {"bcc"}


def test_the_plan_becomes_macros() -> None:
    """Sizes come from the plan: CPUs, rows of packages, slots."""
    defines = bcc_child.defines(vars_of(PLAN))

    assert defines[:4] == ["-DTY_NCPU=4", "-DTY_NPKG=2", "-DTY_NSLOT=128", "-DTY_ROOT_CGID=1ULL"]


def vars_of(plan: LoadPlan) -> dict[str, object]:
    """Return a plan as it reaches the child."""
    return {name: getattr(plan, name) for name in LoadPlan.__slots__}


def test_what_bcc_cannot_tell_is_said() -> None:
    """Asked for processes or counters it loads all the same, and notes what is missing."""
    assert bcc_child.gaps(vars_of(PLAN)) == []
    asked = replace(PLAN, processes=True, counters=("cycles",))
    assert [note.split(" are ")[0] for note in bcc_child.gaps(vars_of(asked))] == [
        "processes",
        "hardware counters",
    ]


# ---- headers ----


def test_headers_of_this_kernel_are_left_to_bcc(host: Host, places: bcc.Places) -> None:
    """Where the very headers are installed bcc finds them by itself."""
    put_headers(places, RELEASE)

    assert bcc.find_headers(host, "match", RELEASE, places) == bcc.Headers()


def test_other_headers_are_refused(host: Host, places: bcc.Places) -> None:
    """Headers of another release are not taken unasked; the refusal says which are there."""
    put_headers(places, "6.1.0-56-amd64")

    with pytest.raises(LoadError) as refusal:
        bcc.find_headers(host, "match", RELEASE, places)

    assert refusal.value.reason == (
        f"bcc needs the headers of this kernel, {RELEASE}; those of 6.1.0-56-amd64 are here"
    )
    assert f"apt install linux-headers-{RELEASE}" in refusal.value.remedy
    assert 'bcc_headers = "any"' in refusal.value.remedy


def test_headers_that_lie_about_their_place_are_refused(host: Host, places: bcc.Places) -> None:
    """A directory with this kernel's name but another kernel's content does not count."""
    put_headers(places, RELEASE, says="6.12.8-amd64")

    with pytest.raises(LoadError, match=r"those of 6\.12\.8-amd64 are here"):
        bcc.find_headers(host, "match", RELEASE, places)


def test_the_kernel_may_carry_its_headers(host: Host, places: bcc.Places) -> None:
    """CONFIG_IKHEADERS needs no package: bcc unpacks them."""
    archive = Path(host.sysfs) / "kernel" / "kheaders.tar.xz"
    archive.parent.mkdir(parents=True)
    archive.touch()

    assert bcc.find_headers(host, "match", RELEASE, places) == bcc.Headers()


def test_any_takes_the_newest(host: Host, places: bcc.Places) -> None:
    """Of several releases the newest by number is taken, wherever it is installed."""
    put_headers(places, "6.9.1")
    tree = Path(places.sources) / "linux-headers-6.10.0"
    put_tree(tree, "6.10.0")

    assert bcc.find_headers(host, "any", RELEASE, places) == bcc.Headers(str(tree))


def test_any_knows_debians_two_halves(host: Host, places: bcc.Places) -> None:
    """A tree whose Makefile includes the common one is compiled with both."""
    common = Path(places.sources) / "linux-headers-6.1-common"
    put_file(common / "include/linux/kconfig.h", "")
    own = Path(places.sources) / "linux-headers-6.1-amd64"
    put_file(own / "include/generated/utsrelease.h", '#define UTS_RELEASE "6.1-amd64"\n')
    put_file(own / "Makefile", f"include {common}/Makefile\n")
    put_file(own / "arch/x86/include/generated/asm/x.h", "")

    headers = bcc.find_headers(host, "any", RELEASE, places)

    assert headers.source == str(common)
    assert f"-I{own}/include" in headers.flags
    assert f"-I{own}/arch/x86/include/generated" in headers.flags


def test_any_needs_some_headers(host: Host, places: bcc.Places) -> None:
    """Without any headers the refusal says what to install."""
    with pytest.raises(LoadError, match="there are no kernel headers") as refusal:
        bcc.find_headers(host, "any", RELEASE, places)

    assert f"linux-headers-{RELEASE}" in refusal.value.remedy


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a machine whose kernel carries no headers."""
    return Host(config.Host(sysfs=str(tmp_path / "sys")))


@pytest.fixture
def places(tmp_path: Path) -> bcc.Places:
    """Return empty places for headers."""
    return bcc.Places(str(tmp_path / "modules"), str(tmp_path / "src"))


def put_headers(places: bcc.Places, release: str, says: str | None = None) -> None:
    """Install a whole tree as the headers of a release."""
    put_tree(Path(places.modules) / release / "build", says or release)


def put_tree(tree: Path, release: str) -> None:
    """Make a whole tree of headers."""
    put_file(tree / "include/linux/kconfig.h", "")
    put_file(tree / "include/generated/utsrelease.h", f'#define UTS_RELEASE "{release}"\n')


def put_file(path: Path, text: str) -> None:
    """Write a file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# ---- the child ----


def test_v1_is_refused_before_bcc_is_needed() -> None:
    """The helper knows cgroup2 ids only; the child says so in the protocol of all loaders."""
    with pytest.raises(LoadError, match="cgroup2 only") as refusal:
        child.load_in_child(replace(PLAN, version="v1"), real_child())

    assert 'loader = "core"' in refusal.value.remedy


def test_without_bcc_the_remedy_is_the_distributions_package() -> None:
    """Nobody is sent to pip, where the name belongs to another project."""
    with pytest.raises(LoadError, match="has no bcc") as refusal:
        child.load_in_child(PLAN, real_child("-S"))

    assert "apt install python3-bpfcc" in refusal.value.remedy


def test_another_bcc_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project that pip installs under this name is told from the real one."""
    monkeypatch.setitem(sys.modules, "bcc", SimpleNamespace(lattice=1))

    with pytest.raises(bcc_child.RefusedError, match="another project"):
        bcc_child.import_bcc()


def real_child(*flags: str) -> child.Backend:
    """Return the backend with this interpreter; -S: without anything but Python."""
    return child.Backend("bcc", (sys.executable, "-I", *flags, str(CHILD)))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended early"),
        ("import time; time.sleep(60)", "did not finish"),
        ("import os, sys; os.write(int(sys.argv[1]), b'\\xffnonsense')", "answer is damaged"),
        ("import sys; sys.exit('clang: no such thing')", "clang: no such thing"),
    ],
)
def test_a_child_that_fails_is_one_error(program: str, reason: str) -> None:
    """Killed, hanging, talking nonsense, complaining: one clear error, and no child is left."""
    with pytest.raises(LoadError, match=reason) as refusal:
        child.load_in_child(PLAN, child.Backend("bcc", (sys.executable, "-c", program)), 1.0)

    assert "bcc" in refusal.value.reason or "answer" in refusal.value.reason
    assert refusal.value.remedy
