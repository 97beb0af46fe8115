"""What the leaves that are no workload are, and what makes less energy nobody's; pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from tychod.analysis.gpus import LATE
from tychod.analysis.gpushare import CHANGED, NOBODY, UNKNOWN_PROCESS
from tychod.analysis.owners import UNKNOWN
from tychod.analysis.pipeline import NO_ACTIVITY
from tychod.model import Leaf
from tychod.workloads.paths import DETACHED, IN_ROOT, OUTSIDE, UNNAMED

HOW: Final[Mapping[str, str]] = {
    "system": "system is no workload: it used nothing itself, and has the idle energy that no "
    "workload gets by the rule below",
    "past": "past is no workload: what ended and is listed no more left its energy here, whole; "
    "what is known late of it is added",
    "unattributed": "unattributed is no workload: it has what CPU time of unknown owners cost, and "
    "what no CPU time or user explains; the reason stands above",
}
KERNEL: Final = "kernel threads and interrupts, taken as one workload: "
ON_GPU: Final = "on a GPU: "
UNREAD: Final = " could not be read for "
SEE_GPUS: Final = "see tychoctl gpus -o wide for what is not told of its users"
SEE_USERS: Final = (
    "let a device plugin assign the GPU, so that the kubelet tells whose it is, and let tychod see "
    "all processes: no hidepid on /proc, no pid namespace of its own"
)
SEE_METER: Final = "see tychoctl sources for why the meter was not read"
MAKERS: Final = "see who makes cgroups of such names: systemd-cgls"
NEXT_WINDOW: Final = "ask again after the next window"
SEE_ANEW: Final = "please report a reason that has no remedy, with tychoctl status"
REMEDIES: Final[Mapping[str, str]] = {
    OUTSIDE: "run tychod on the host itself, or give it the host's whole tree of cgroups "
    "([host] cgroupfs): it sees only a part of them",
    IN_ROOT: "start them as units (systemd-run, or --scope for a shell): cgroup.procs of the root "
    "cgroup lists them, beside kernel threads; tychoctl processes has what they use",
    UNNAMED: "see what runs there: systemctl status PID, for a PID of its cgroup.procs; start it "
    "as a unit (systemd-run) or in a container",
    UNKNOWN: f"{NEXT_WINDOW}: names come within seconds",
    "pod without containers in": MAKERS,
    "two cgroups claim container": MAKERS,
    DETACHED: "nothing is lost from now on; if it comes again see who replaces the programs: "
    "tychod-load status, journalctl -u tychod-bpf",
    NO_ACTIVITY: "see accounting in tychoctl status: readings that were lost or late; devices "
    "that work without any CPU time are not told apart",
    f"{ON_GPU}{NOBODY}": SEE_USERS,
    f"{ON_GPU}{CHANGED}": SEE_USERS,
    f"{ON_GPU}{UNKNOWN_PROCESS}": SEE_USERS,
    f"{ON_GPU}{LATE}": f"{NEXT_WINDOW}: it comes when a GPU tells late, as after a restart",
    ON_GPU: SEE_GPUS,
}
"""By what a reason begins with: names from outside stand at its end."""


def remedies_of(leaf: Leaf) -> Iterator[tuple[str, str]]:
    """Yield each reason why energy is nobody's, with its remedy."""
    for reason in (leaf.identity.reason or "").split("; "):
        if reason:
            yield reason, _remedy(reason)


def _remedy(reason: str) -> str:
    for begin, remedy in REMEDIES.items():
        if reason.startswith(begin):
            return remedy
    return SEE_METER if UNREAD in reason else SEE_ANEW


def how_of(kind: str, shared: str) -> str:
    """Return how a leaf of this kind got its part; ``shared``: how those of workloads came."""
    return KERNEL + shared if kind == "kernel" else HOW.get(kind, shared)
