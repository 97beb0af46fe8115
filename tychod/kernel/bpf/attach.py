"""From a machine and its settings to running programs: the plan, and who loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tychod.kernel.bpf import child, cpus
from tychod.kernel.bpf.plan import Loaded, LoadError, LoadPlan
from tychod.kernel.hierarchy import NoHierarchy, choose_hierarchy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tychod.config import Config
    from tychod.hostfs import Host
    from tychod.kernel.hierarchy import Hierarchy

OFF: Final = LoadError(
    '[accounting] loader = "off"', 'set it to "auto" to count CPU time in the kernel'
)


def make_plan(host: Host, config: Config) -> LoadPlan:
    """Return what the programs must know about this machine; LoadError without a hierarchy."""
    chosen = choose_hierarchy(host, config.host.hierarchy)
    if isinstance(chosen, NoHierarchy):
        raise LoadError(chosen.reason, chosen.remedy)
    accounting = config.accounting
    return LoadPlan(
        version=chosen.version,
        root_cgid=_root_cgid(host, chosen),
        hierarchy_id=_hierarchy_id(host, chosen),
        packages=cpus.package_rows(host),
        slots=accounting.slots,
        processes=accounting.processes,
        counters=tuple(accounting.counters),
    )


def load_core_in_child(plan: LoadPlan) -> Loaded:
    """Load the compiled programs in a child."""
    return child.load_in_child(plan, child.core_backend())


def load(
    host: Host, config: Config, core: Callable[[LoadPlan], Loaded] = load_core_in_child
) -> Loaded:
    """Load by the backend that ``[accounting] loader`` names; LoadError with all reasons.

    ``auto`` takes core, else bcc, and keeps both reasons when neither works.  bcc runs in a child
    always, core where ``core`` does it.
    """
    loader = config.accounting.loader
    if loader == "off":
        raise LoadError(OFF.reason, OFF.remedy)
    plan = make_plan(host, config)
    if loader == "bcc":
        return _load_bcc(plan, host, config)
    try:
        return core(plan)
    except LoadError as refused:
        if loader == "core":
            raise
        try:
            return _load_bcc(plan, host, config)
        except LoadError as bcc:
            raise LoadError(f"{refused.reason}; bcc: {bcc.reason}", refused.remedy) from refused


def _load_bcc(plan: LoadPlan, host: Host, config: Config) -> Loaded:
    from tychod.kernel.bpf.bcc import bcc_backend

    return child.load_in_child(plan, bcc_backend(host, config.accounting.bcc_headers))


def _root_cgid(host: Host, chosen: Hierarchy) -> int:
    """Return the id of the machine's root cgroup; 0, which no cgroup has, where it is not seen."""
    return (host.inode(chosen.root) or 0) if chosen.true_root else 0


def _hierarchy_id(host: Host, chosen: Hierarchy) -> int:
    if chosen.version == "v2":
        return 0
    return parse_hierarchy_id(host.read_text(f"{host.procfs}/cgroups") or "")


def parse_hierarchy_id(text: str) -> int:
    """Return cpuacct's hierarchy number from /proc/cgroups (cgroups(7)); LoadError without one."""
    for line in text.splitlines():
        fields = line.split()
        if fields and fields[0] == "cpuacct" and len(fields) > 1 and fields[1] != "0":
            return int(fields[1])
    raise LoadError(
        "cpuacct has no hierarchy of its own in /proc/cgroups",
        'set [host] hierarchy = "v2", or mount cpuacct',
    )
