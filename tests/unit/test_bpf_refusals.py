"""Why programs cannot be loaded: each cause has a reason and a remedy that a person can act on."""

import errno
import os
from pathlib import Path

import pytest

from tests.sim.bpf import plan_here
from tychod import config
from tychod.hostfs import Host
from tychod.kernel.bpf import core, libbpf, perf, refusal
from tychod.kernel.bpf.plan import LoadError, LoadPlan

PLAN = LoadPlan("v2", 1, 0, (0,), 64)
ALL = "CapEff:\t000001ffffffffff\n"
BPF_ALONE = f"CapEff:\t{1 << 39:016x}\n"
PERFMON_ALONE = f"CapEff:\t{1 << 38:016x}\n"
ADMIN_ALONE = f"CapEff:\t{1 << 21:016x}\n"


def machine(
    tmp_path: Path, *, caps: str = ALL, btf: bool = True, lockdown: str | None = None
) -> Host:
    """Return a machine with these facts below a directory."""
    for folder in ("proc/self", "sys/kernel/btf", "sys/kernel/security"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text(f"Name:\tx\n{caps}")
    if btf:
        (tmp_path / "sys/kernel/btf/vmlinux").write_bytes(b"\x9f\xeb")
    if lockdown:
        (tmp_path / "sys/kernel/security/lockdown").write_text(lockdown)
    return Host(config.Host(procfs=str(tmp_path / "proc"), sysfs=str(tmp_path / "sys")))


def error(number: int) -> OSError:
    """Return what the kernel says with this number."""
    return OSError(number, os.strerror(number))


def test_a_kernel_without_types_is_named(tmp_path: Path) -> None:
    """No BTF: says which file is missing, and that bcc may do."""
    found = refusal.explain(machine(tmp_path, btf=False), error(errno.EPERM), "")

    assert "kernel/btf/vmlinux" in found.reason
    assert "CONFIG_DEBUG_INFO_BTF" in found.remedy
    assert "bcc" in found.remedy


@pytest.mark.parametrize(
    ("text", "is_locked"),
    [
        ("none integrity [confidentiality]\n", True),
        ("none [integrity] confidentiality\n", False),
        ("[none] integrity confidentiality\n", False),
    ],
)
def test_only_the_strict_lockdown_is_a_reason(tmp_path: Path, text: str, is_locked: bool) -> None:
    """lockdown=confidentiality forbids it, integrity does not."""
    found = refusal.explain(machine(tmp_path, lockdown=text), error(errno.EPERM), "log line")

    assert ("locked down" in found.reason) == is_locked


@pytest.mark.parametrize(
    ("caps", "missing"),
    [
        (BPF_ALONE, "CAP_PERFMON"),
        (PERFMON_ALONE, "CAP_BPF"),
        ("CapEff:\t0000000000000000\n", "CAP_BPF and CAP_PERFMON"),
        ("", "CAP_BPF and CAP_PERFMON"),
    ],
)
def test_missing_capabilities_are_named(tmp_path: Path, caps: str, missing: str) -> None:
    """Who may not load is told exactly what is missing."""
    found = refusal.explain(machine(tmp_path, caps=caps), error(errno.EPERM), "")

    assert found.reason == f"not permitted: missing {missing}"


@pytest.mark.parametrize("caps", [ALL, ADMIN_ALONE])
def test_who_has_the_capabilities_misses_none(tmp_path: Path, caps: str) -> None:
    """Root and CAP_SYS_ADMIN are enough: EPERM then has another cause, and the log is shown."""
    found = refusal.explain(machine(tmp_path, caps=caps), error(errno.EPERM), "a\n\nR1 is bad\n")

    assert "missing" not in found.reason
    assert found.reason.endswith("(a; R1 is bad)")


def test_memory_is_told_from_a_refusal(tmp_path: Path) -> None:
    """No memory for the maps: the setting that makes them smaller is named."""
    found = refusal.explain(machine(tmp_path), error(errno.ENOMEM), "")

    assert "[accounting] slots" in found.remedy


def test_a_refusal_shows_the_end_of_the_log_only(tmp_path: Path) -> None:
    """The verifier writes thousands of lines; the last ones say what it is."""
    log = "\n".join(f"line {number}" for number in range(1000))
    found = refusal.explain(machine(tmp_path), error(errno.EINVAL), log)

    assert "line 999" in found.reason
    assert "line 900" not in found.reason


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libbpf the packages that hold it are named."""
    monkeypatch.setattr(libbpf, "SONAME", "libbpf-of-nobody.so.1")

    with pytest.raises(LoadError, match=r"libbpf-of-nobody\.so\.1") as caught:
        core.load_core(PLAN)
    assert "libbpf1" in caught.value.remedy


def test_missing_programs_say_how_to_make_them(tmp_path: Path) -> None:
    """A checkout without compiled programs says `make bpf`."""
    need_library()
    with pytest.raises(LoadError, match=r"not at .*absent\.o") as caught:
        core.load_core(PLAN, tmp_path / "absent.o")
    assert "make bpf" in caught.value.remedy


def test_a_damaged_object_is_no_crash(tmp_path: Path) -> None:
    """A file that is no object is refused in words."""
    need_library()
    path = tmp_path / "x.o"
    path.write_bytes(b"\x7fELF" + b"\0" * 100)

    with pytest.raises(LoadError, match="no object that libbpf can open"):
        core.load_core(PLAN, path)


def test_programs_of_another_layout_are_not_loaded(tmp_path: Path) -> None:
    """The object carries its ABI number; one of another number never reaches the kernel."""
    need_library()
    if not core.default_object().exists():
        pytest.skip(f"{core.default_object().name} is not built: make bpf")
    lib = libbpf.open_library()
    file = libbpf.ObjectFile(lib, str(core.default_object()))
    try:
        offset, size = file.constant_places()["ty_abi"]
        held = bytes(file.constants()[offset : offset + size])
    finally:
        file.close()
    data = core.default_object().read_bytes()
    constants = data.index(held + b"\0\x10\0\0\1\0\0\0") if offset == 0 else None
    if constants is None:
        pytest.skip("the compiler puts ty_abi elsewhere")
    path = tmp_path / "other.o"
    path.write_bytes(data[:constants] + b"\x63" + data[constants + 1 :])

    with pytest.raises(LoadError, match="of ABI 99"):
        core.load_core(plan_here(), path)


def test_an_unknown_counter_is_a_note_not_a_failure() -> None:
    """A counter that cannot be opened is left out and named; the others stay."""
    found, notes = perf.available(("instructions", "sw:task-clock"))

    assert len(found) + len(notes) == 2
    assert all("is not counted" in note for note in notes)


def test_one_cpu_without_a_counter_costs_its_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that went offline meanwhile, or whose hardware is taken: a note; the others count."""
    connected: list[tuple[int, str]] = []

    def open_one(counter: perf.Counter, cpu: int) -> int:
        if cpu == 1:
            raise error(errno.EBUSY)
        connected.append((cpu, counter.name))
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(perf, "_open", open_one)
    monkeypatch.setattr(perf.syscall, "update", lambda *_: None)
    counters = (perf.Counter("cycles", 0, 0, 0), perf.Counter("llc_misses", 2, 0, 3))
    notes = perf.connect(counters, iter((0, 1, 2)), lambda _: os.open(os.devnull, os.O_RDONLY))

    assert connected == [(0, "cycles"), (2, "cycles"), (0, "llc_misses"), (2, "llc_misses")]
    assert [note.partition(":")[0] for note in notes] == [
        f"counter {name} is not counted on CPU 1" for name in ("cycles", "llc_misses")
    ]


@pytest.mark.parametrize(
    ("release", "machine_name", "is_named"),
    [
        ("5.15.0-119-generic", "aarch64", True),
        ("5.17", "aarch64", True),
        ("5.18.0", "aarch64", False),
        ("6.1.0", "aarch64", False),
        ("unheard of", "aarch64", False),
        ("5.15.0", "x86_64", False),
    ],
)
def test_old_kernels_on_arm_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, machine_name: str, is_named: bool
) -> None:
    """Their compiler lacks the atomic operations: what helps is a newer kernel."""
    monkeypatch.setattr(refusal.platform, "machine", lambda: machine_name)
    monkeypatch.setattr(refusal.platform, "release", lambda: release)
    found = refusal.explain(machine(tmp_path), OSError(524, "Unknown error 524"), "log line")

    assert ("atomic" in found.reason) == is_named
    assert ("Linux 5.18" in found.remedy) == is_named


def need_library() -> None:
    """Skip where libbpf is not installed."""
    try:
        libbpf.open_library()
    except LoadError as exc:
        pytest.skip(exc.reason)
