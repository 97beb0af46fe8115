"""Compiles and attaches the helpers-only programs with bcc, hands them over, and ends.

It is started as a file, by the interpreter for which the distribution installs bcc, which may be
an older one that cannot see our packages: so it imports the standard library and bcc alone.  On
standard input comes what to do; the descriptors leave through the socket whose number is the
argument.  ``bcc`` allocates some 160 MB, which is why the daemon never imports it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import socket
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS: Final = (
    # Ends before beginnings: an end without one is ignored.
    ("ty_irq_out", "irq_handler_exit"),
    ("ty_softirq_out", "softirq_exit"),
    ("ty_timer_out", "local_timer_exit"),
    ("ty_irq_in", "irq_handler_entry"),
    ("ty_softirq_in", "softirq_entry"),
    ("ty_timer_in", "local_timer_entry"),
    ("ty_exiting", "sched_process_exit"),
    ("ty_switch", "sched_switch"),
)
OPTIONAL: Final = ("local_timer_entry", "local_timer_exit")
"""Tracepoints of x86 alone; elsewhere the tick is an ordinary irq."""

ORDERED: Final = ("x86_64", "i686")
"""Machines that never show another CPU's stores out of order."""

INSTALL: Final = (
    "install the distribution's bcc (Debian, Ubuntu: apt install python3-bpfcc; Fedora, RHEL:"
    ' dnf install python3-bcc); the "bcc" of pip is something else'
)


class RefusedError(Exception):
    """It cannot be done: why, and what a person could do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def main(number: str) -> int:
    """Do what standard input asks for, and answer on the socket of that descriptor number."""
    request = json.load(sys.stdin)
    channel = socket.socket(fileno=int(number))  # closed by our end: then all we said is there
    try:
        with private_directory():
            maps, links, notes = load(request)
    except RefusedError as refused:
        error = {"reason": refused.reason, "remedy": refused.remedy}
        channel.send(json.dumps({"error": error}).encode())
        return 1
    answer = {"maps": list(maps), "links": list(links), "notes": notes}
    socket.send_fds(channel, [json.dumps(answer).encode()], [*maps.values(), *links.values()])
    return 0


@contextlib.contextmanager
def private_directory() -> Iterator[None]:
    """Let bcc unpack headers where nobody else could have put some, and remove them."""
    with tempfile.TemporaryDirectory(prefix="tychod-bcc-") as path:
        os.environ["TMPDIR"] = path
        yield


def load(request: dict[str, Any]) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """Return the descriptors of maps and of links by name, and notes for the log."""
    plan = request["plan"]
    if plan["version"] != "v2":
        raise RefusedError(
            "bcc can account cgroup2 only, and this host's truth is a v1 hierarchy",
            'loader = "core", or [host] hierarchy = "v2"',
        )
    bcc = import_bcc()
    if request["kernel_source"]:
        os.environ["BCC_KERNEL_SOURCE"] = request["kernel_source"]
    else:
        os.environ.pop("BCC_KERNEL_SOURCE", None)
    module = bcc.BPF(text=request["text"], cflags=[*request["flags"], *defines(plan)])
    maps = {name: bcc.lib.bpf_table_fd(module.module, name.encode()) for name in request["maps"]}
    missing = [name for name, fd in maps.items() if fd < 0]
    if missing:
        raise RefusedError(f"bcc made no map {', '.join(missing)}", 'loader = "core"')
    begin(module, request["ctl"], plan)
    links, notes = attach(bcc, module)
    start_clocks(len(plan["packages"]))
    return maps, links, [*notes, *gaps(plan)]


def import_bcc() -> Any:
    """Return the module ``bcc``; refuse where there is none, or another project of that name."""
    try:
        import bcc  # type: ignore[import-not-found, unused-ignore]
    except ImportError as exc:
        raise RefusedError(f"{sys.executable} has no bcc ({exc})", INSTALL) from exc
    if not hasattr(bcc, "BPF"):
        raise RefusedError(f"the bcc of {sys.executable} is another project of that name", INSTALL)
    return bcc


def defines(plan: dict[str, Any]) -> list[str]:
    """Return the plan as macros of the programs."""
    return [
        f"-DTY_NCPU={len(plan['packages'])}",
        f"-DTY_NPKG={max(plan['packages']) + 1}",
        f"-DTY_NSLOT={plan['slots']}",
        f"-DTY_ROOT_CGID={plan['root_cgid']}ULL",
        f"-DTY_WEAK_ORDER={int(platform.machine() not in ORDERED)}",
    ]


def begin(module: Any, fixed: dict[str, int], plan: dict[str, Any]) -> None:
    """Fill in what the programs and the readers find there, before anything is attached."""
    table = module[b"ty_ctl"]
    ctl = table.Leaf()
    values = {
        **fixed,
        "ncpu": len(plan["packages"]),
        "npkg": max(plan["packages"]) + 1,
        "nslot": plan["slots"],
        "hierarchy": 2,
        "nproc": 1,
        "stamp": secrets.randbits(64),
        "created": time.monotonic_ns(),
        "root_cgid": plan["root_cgid"],
        "epoch": 1,  # the state of a CPU begins with 0, which is then never up to date
    }
    for name, value in values.items():
        setattr(ctl, name, value)
    table[table.Key(0)] = ctl
    table = module[b"ty_cpu"]
    for cpu, package in enumerate(plan["packages"]):
        state = table.Leaf()
        state.pkg = package
        table[table.Key(cpu)] = state


def attach(bcc: Any, module: Any) -> tuple[dict[str, int], list[str]]:
    """Attach every program to its tracepoint; what the machine has not is a note."""
    links, notes = {}, []
    for name, tracepoint in PROGRAMS:
        program = module.load_func(name.encode(), bcc.BPF.RAW_TRACEPOINT)
        fd = bcc.lib.bpf_attach_raw_tracepoint(program.fd, tracepoint.encode())
        if fd >= 0:
            links[name] = fd
        elif tracepoint in OPTIONAL:
            notes.append(f"{tracepoint} is not told from task time: this kernel has no such event")
        else:
            raise RefusedError(
                f"the kernel lets nobody attach to {tracepoint}", "a kernel with CONFIG_TRACEPOINTS"
            )
    return links, notes


def start_clocks(cpus: int) -> None:
    """Run once on every CPU: its clock begins with the first task switch."""
    for cpu in range(cpus):
        try:
            os.sched_setaffinity(0, {cpu})
        except OSError:
            continue  # offline, or not ours: it starts when others use it
        time.sleep(1e-5)


def gaps(plan: dict[str, Any]) -> list[str]:
    """Return what was asked for and this backend has not."""
    notes = []
    if plan["processes"]:
        notes.append("processes are not accounted: bcc tells cgroups only")
    if plan["counters"]:
        notes.append("hardware counters are not read: bcc tells time only")
    return notes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
