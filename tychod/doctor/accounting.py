"""The accounting of CPU time: what the kernel programs need, and which cgroups are counted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

from tychod.doctor.model import Finding, ok, skip
from tychod.doctor.remedies import remedy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tychod.doctor.model import Place
    from tychod.hostfs import Host
    from tychod.kernel.bpf.attached import State
    from tychod.kernel.bpf.plan import LoadError

OFF: Final = '[accounting] loader = "off"'
MOST_DIRECTORIES: Final = 3000
"""Cgroups that are looked through for pods and containers; a node has hundreds."""
DEEPEST: Final = 8


def judge_refusal(place: Place, refused: LoadError) -> Finding:
    """Judge what keeps the programs out: by itself tychod then reads files of cgroups instead."""
    state: Literal["warn", "fail"] = "warn" if place.config.accounting.loader == "auto" else "fail"
    return Finding(state, refused.reason, refused.remedy)


def look_at_btf(place: Place) -> Finding:
    """Look whether the kernel describes its types, and lets programs read them."""
    from tychod.kernel.bpf import refusal

    host, loader = place.host, place.config.accounting.loader
    if loader in ("off", "bcc"):
        return skip(f'[accounting] loader = "{loader}" needs none')
    if refused := refusal.without_btf(host) or refusal.locked_down(host):
        return judge_refusal(place, refused)
    return ok(f"{host.sysfs}/kernel/btf/vmlinux is there; no lockdown against reading")


def look_at_bpf_file_system(place: Place) -> Finding:
    """Look whether a BPF file system is mounted where the maps are pinned."""
    from tychod.kernel.bpf import pins

    if place.config.accounting.loader == "off":
        return skip(OFF)
    root = pins.default_root(place.host)
    if refused := pins.not_bpffs(place.host, root):
        return judge_refusal(place, refused)
    return ok(f"{root} is in a BPF file system")


def look_at_loader(place: Place) -> Finding:
    """Look for what the loader needs on this host: libbpf, or headers for bcc; load nothing."""
    from tychod.kernel.bpf.plan import LoadError

    loader = place.config.accounting.loader
    if loader == "off":
        return skip(OFF)
    try:
        if loader != "bcc":
            from tychod.kernel.bpf.libbpf import open_library

            open_library()
            return ok(f'[accounting] loader = "{loader}"; libbpf can be loaded')
        from tychod.kernel.bpf.bcc import bcc_backend

        bcc_backend(place.host, place.config.accounting.bcc_headers)
    except LoadError as exc:
        return judge_refusal(place, exc)
    return ok('[accounting] loader = "bcc"; kernel headers were found')


def look_at_programs(place: Place) -> Finding:
    """Say whether the programs are pinned and count, as `tychod-load status` does."""
    from tychod.kernel.bpf import attached, pins
    from tychod.kernel.bpf.opening import told_by_loader
    from tychod.kernel.bpf.plan import LoadError

    if place.config.accounting.loader == "off":
        return skip(OFF)
    root = pins.default_root(place.host)
    try:
        state = attached.read_state(place.host, root)
    except LoadError as exc:
        if not place.reads_all and "ermi" in exc.reason:  # "Permission denied", "not permitted"
            return skip(f"user {place.uid}: {exc.reason}", remedy("as-root"))
        return judge_refusal(place, exc)
    if state is not None:
        return judge_state(state, root)
    if refused := told_by_loader(place.host):
        return judge_refusal(
            place, LoadError(f"tychod-bpf.service: {refused.reason}", refused.remedy)
        )
    missing = LoadError(f"nothing is pinned at {root}/{pins.VERSION}", pins.ATTACH)
    return judge_refusal(place, missing)


def judge_state(state: State, root: str) -> Finding:
    """Say what is pinned and whether its places suffice."""
    text = (
        f"pinned at {root}, loader {state.loader}, hierarchy {state.hierarchy}, "
        f"{state.cgroups} of {state.slots} cgroups"
    )
    if state.no_slot or state.cgroups >= state.slots:
        from tychod.kernel.bpf.opening import RELOAD

        more = f"raise [accounting] slots (now {state.slots}); then {RELOAD}"
        return Finding("warn", f"{text}; {state.no_slot} times there was no slot", more)
    return ok(text)


def look_at_rights(place: Place) -> Finding:
    """Say whether whoever asks may load programs: root may, and the loader's unit may."""
    from tychod.kernel.bpf import refusal

    if place.config.accounting.loader == "off":
        return skip(OFF)
    refused = refusal.not_permitted(place.host)
    if refused is None:
        return ok("CAP_BPF and CAP_PERFMON: this user has them")
    # systemd gives them to tychod-bpf.service; that this user lacks them is as it should be.
    return skip(f"user {place.uid}: {refused.reason}", refused.remedy)


def look_at_hierarchy(place: Place) -> Finding:
    """Choose the hierarchy of cgroups as the accounting does."""
    from tychod.kernel.hierarchy import NoHierarchy, choose_hierarchy

    chosen = choose_hierarchy(place.host, place.config.host.hierarchy)
    if isinstance(chosen, NoHierarchy):
        return Finding("fail", chosen.reason, chosen.remedy)
    return ok(f"{chosen.version} at {chosen.root}: {chosen.reason}")


def look_at_cgroup_driver(place: Place) -> Finding:
    """Tell the kubelet's cgroup driver by the names of its cgroups."""
    paths = list(cgroups_below(place))
    by_systemd = [p for p in paths if re.search(r"/kubepods[^/]*\.slice$", p)]
    by_files = [p for p in paths if p.endswith("/kubepods")]
    if by_systemd and by_files:
        text = f"both: {by_systemd[0]} (systemd) and {by_files[0]} (cgroupfs)"
        return Finding("warn", text, remedy("cgroup-drivers"))
    if by_systemd or by_files:
        name = "systemd" if by_systemd else "cgroupfs"
        return ok(f"{name} ({(by_systemd or by_files)[0]})")
    return skip("no cgroups of pods: no kubelet runs pods here")


def cgroups_below(place: Place) -> Iterator[str]:
    """Yield the paths of cgroups below the hierarchy's root, those near it first, boundedly."""
    from tychod.kernel.hierarchy import NoHierarchy, choose_hierarchy

    chosen = choose_hierarchy(place.host, place.config.host.hierarchy)
    if isinstance(chosen, NoHierarchy):
        return
    pending, count = [""], 0
    for path in pending:  # grows while it is gone through
        for name in _below(place.host, f"{chosen.root}{path}"):
            count += 1
            if count > MOST_DIRECTORIES:
                return
            yield f"{path}/{name}"
            if path.count("/") < DEEPEST:
                pending.append(f"{path}/{name}")


def _below(host: Host, directory: str) -> tuple[str, ...]:
    try:
        return tuple(name for name, _ in host.list_subdirs(directory) or ())
    except OSError:
        return ()  # one that may not be listed hides nothing but itself
