"""Builds the packages and checks them on a machine with systemd; run by tests/e2e/run.sh.

TYCHOD_E2E_EXEC names the machine: a command prefix that runs its arguments there as root, with its
standard input (``ssh root@node``); files go there by `tar`. Else TYCHOD_NODEBOX names a tool that
boots throwaway machines, where the RPM is checked as well. With neither: exit 77. Arguments are
parts of the names of steps: only those run.
"""

import fcntl
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.e2e.inside.__main__ import SUITES, chosen_steps
from tests.e2e.steps import Step, StepError, require, run_steps, say

ROOT: Final = Path(__file__).resolve().parents[2]
SKIPPED: Final = 77
SUITE_LIMIT_S: Final = 2400
IMAGE: Final = "tychod-e2e"
# What the packages depend on, what the tests need, and rpm: a machine then needs no network.
PACKAGES: Final = (
    "python3-msgpack", "python3-numpy", "python3-pystemd", "python3-requests", "python3-sdnotify",
    "python3-tomli-w", "python3-pyroute2", "python3-prometheus-client", "python3-rich", "libbpf1",
    "python3-pytest", "python3-hypothesis", "rpm",
)  # fmt: skip
# What single suites need, each on a machine of its own: containers and virtual machines; Prometheus
# (its own service is in nobody's way: a box has a network of its own), terminals, shells, pages.
MORE: Final[Mapping[str, tuple[str, ...]]] = {
    "identity": (
        *("libpam-systemd", "openssl", "podman", "qemu-system-x86", "runc", "systemd-container"),
    ),
    "operator": ("bash-completion", "iproute2", "man-db", "openssl", "prometheus", "tmux", "zsh"),
}
PROGRAMS: Final = {"work": "tests/e2e/work.c", "firecracker": "tests/sim/vmm.c"}


class Build(NamedTuple):
    """Where the packages are built, and what was asked for."""

    directory: Path
    chosen: tuple[str, ...]

    @property
    def source(self) -> Path:
        """A copy of the tree as it was at the start: everything is built and tested from it."""
        return self.directory / "src"


def main() -> int:
    """Build, check, and say how it went."""
    prefix, boxes = os.environ.get("TYCHOD_E2E_EXEC"), os.environ.get("TYCHOD_NODEBOX")
    if not prefix and not boxes:
        say(
            "e2e: SKIPPED: set TYCHOD_E2E_EXEC to a command prefix that runs its arguments as root "
            "on a machine with systemd, or TYCHOD_NODEBOX to a tool that boots such machines"
        )
        return SKIPPED
    with tempfile.TemporaryDirectory(prefix="tychod-e2e-") as directory:
        build = Build(Path(directory), tuple(sys.argv[1:]))
        failed = run_steps(BUILD_STEPS, build)
        if not failed:
            failed += check_on_machines(build, prefix, boxes)
    say("e2e: ok" if not failed else f"e2e: FAILED, {failed} steps or suites")
    return 1 if failed else 0


def check_on_machines(build: Build, prefix: str | None, boxes: str | None) -> int:
    """Run the suites that have a step to run; return how many failed."""
    suites = [name for name in SUITES if chosen_steps(name, build.chosen)]
    require(suites, f"no step has a name with {' or '.join(build.chosen)} in it")
    failed = 0
    if boxes:
        wait_for_bpf()
    for suite in suites:
        if prefix and suite != "rpm":
            failed += run_suite(suite, shlex.split(prefix), build)
        elif boxes:
            with boot(boxes, suite) as machine:
                failed += run_suite(suite, machine, build)
        else:
            say("skip RPM: it is checked on a throwaway machine, and TYCHOD_NODEBOX is not set")
    return failed


def wait_for_bpf() -> None:
    """Take the lock of tests that attach BPF (tests/sim/bpf.py): machines made here share a kernel.

    It lasts as long as this process.
    """
    path = Path(tempfile.gettempdir()) / "tychod-test-bpf.lock"
    fcntl.flock(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), fcntl.LOCK_EX)


def build_packages(build: Build) -> str:
    """One state of the tree is built twice, with a higher version, and with a new layout."""
    script = (
        'set -e; . packaging/common.sh; epoch=$(read_epoch); export_tree "$1" $epoch; echo $epoch'
    )
    epoch = call("bash", "-c", script, "bash", str(build.source)).strip()
    env = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    for out, *suffix in (("first",), ("again",), ("next", "--suffix", "+1")):
        for kind in ("deb",) if suffix else ("deb", "rpm"):
            script = str(build.source / f"packaging/build-{kind}.sh")
            call(script, "--out", str(build.directory / kind / out), *suffix, env=env)
    script = str(change_layout(build) / "packaging/build-deb.sh")
    call(script, "--out", str(build.directory / "deb/abi"), "--suffix", "+2", env=env)
    names = [path.name for path in sorted(build.directory.glob("[dr][ep][bm]/*/*"))]
    return ", ".join(sorted(set(names)))


def change_layout(build: Build) -> Path:
    """Return a copy of the source whose maps have the next ABI number."""
    copy = build.directory / "src-abi"
    shutil.copytree(build.source, copy, symlinks=True)
    for name, pattern in (
        ("bpf/tychod.h", r"(?m)^(#define TY_ABI )(\d+)$"),
        ("tychod/kernel/bpf/abi.py", r"(?m)^(ABI: Final = )(\d+)$"),
    ):
        text = (copy / name).read_text(encoding="utf-8")
        changed, times = re.subn(pattern, lambda m: f"{m[1]}{int(m[2]) + 1}", text)
        require(times == 1, f"no ABI number in {name}")
        (copy / name).write_text(changed, encoding="utf-8")
    return copy


def builds_are_equal(build: Build) -> str:
    """The same source gives the same bytes."""
    sizes = []
    for kind in ("deb", "rpm"):
        first, again = (
            next((build.directory / kind / out).iterdir()) for out in ("first", "again")
        )
        require(first.read_bytes() == again.read_bytes(), f"two builds of {first.name} differ")
        sizes.append(f"{kind} {first.stat().st_size // 1024} KiB")
    return ", ".join(sizes)


def programs_are_built(build: Build) -> str:
    """The loads in containers and what stands in for hypervisors are static; a GPU's library."""
    directory = build.directory / "programs"
    directory.mkdir()
    for name, source in PROGRAMS.items():
        argv = ("cc", "-O2", "-static", "-pthread", "-o", str(directory / name))
        call(*argv, str(build.source / source))
    made = "import sys, pathlib; from tests.sim.nvml.world import compile_stub"
    script = f"{made}; compile_stub(pathlib.Path(sys.argv[1]))"
    call("env", "-C", str(build.source), "python3", "-B", "-c", script, str(directory))
    return ", ".join(PROGRAMS)


def lintian_is_content(build: Build) -> None:
    """lintian has no error and no warning about the Debian package."""
    (package,) = (build.directory / "deb/first").iterdir()
    call("lintian", "--allow-root", "--fail-on", "error,warning", str(package))


BUILD_STEPS: Final = (
    Step("packages are built", build_packages, 180),
    Step("builds are reproducible", builds_are_equal),
    Step("programs for the checks are built", programs_are_built),
    Step("lintian", lintian_is_content, 120),
)


@contextmanager
def boot(boxes: str, suite: str) -> Iterator[list[str]]:
    """Boot a throwaway machine for a suite; yield the prefix of commands on it."""
    call(boxes, "build", "base", limit_s=900)
    call(boxes, "build", IMAGE, "--base", "base", "--include", ",".join(PACKAGES), limit_s=900)
    image = f"{IMAGE}-{suite}" if suite in MORE else IMAGE
    if suite in MORE:
        more = MORE[suite]
        call(boxes, "build", image, "--base", IMAGE, "--include", ",".join(more), limit_s=900)
    name = f"{IMAGE}-{secrets.token_hex(4)}"
    call(boxes, "boot", name, "--image", image, "--strict", limit_s=120)
    try:
        yield [boxes, "exec", name, "--stdin", "--timeout", str(SUITE_LIMIT_S), "--"]
    finally:
        call(boxes, "stop", name, limit_s=60)


def run_suite(suite: str, machine: Sequence[str], build: Build) -> int:
    """Send everything to the machine, run the suite there; return how many of its steps failed."""
    place = f"/var/tmp/tychod-e2e-{secrets.token_hex(4)}"  # noqa: S108 (a name nobody can guess)
    say(f"--- {suite}")
    remote(machine, "mkdir", "-m", "0700", place)
    try:
        send(machine, place, build, suite)
        argv = ["env", "-C", f"{place}/src", "LC_ALL=C.UTF-8", "python3", "-B", "-u", "-m"]
        return follow([*machine, *argv, "tests.e2e.inside", suite, place, *build.chosen])
    finally:
        remote(machine, "rm", "-rf", place)


def send(machine: Sequence[str], place: str, build: Build, suite: str) -> None:
    """Copy the source tree and the packages to the machine."""
    packages = build.directory / "packages"
    packages.unlink(missing_ok=True)
    packages.symlink_to("rpm" if suite == "rpm" else "deb")
    argv = ("tar", "-C", build.directory, "-chf", "-", "src", "packages", "programs")
    archive = subprocess.Popen(argv, stdout=subprocess.PIPE)
    remote(machine, "tar", "-C", place, "-xf", "-", stdin=archive.stdout)
    require(archive.wait() == 0, "tar failed")


def follow(argv: Sequence[str]) -> int:
    """Run a suite and print its lines as they come; return how many steps failed."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        say(line.rstrip("\n"))
    passed = sum(line.startswith("ok ") for line in lines)
    failed = sum(line.startswith("FAIL ") for line in lines)
    skipped = sum(line.startswith("skip ") for line in lines)
    say(f"--- {passed} ok, {failed} failed, {skipped} skipped")
    return failed or (1 if process.wait() else 0)


def remote(machine: Sequence[str], *argv: str, stdin: object = subprocess.DEVNULL) -> None:
    """Run a command on the machine."""
    call(*machine, *argv, stdin=stdin)


def call(
    *argv: str,
    limit_s: float = 300,
    stdin: object = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command in the checkout; StepError with its output unless it succeeds."""
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env=env,
        stdin=stdin,  # type: ignore[call-overload]
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise StepError(f"{shlex.join(argv)}: exit {done.returncode}\n{tail}")
    return str(done.stdout)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except StepError as failure:
        say(f"FAIL e2e: {failure}")
        raise SystemExit(1) from None
