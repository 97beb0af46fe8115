"""What the settings and the machine give the parts of a daemon before anything is measured."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

from tychod.analysis.state import LATE_NS, STALE_NS, Params
from tychod.clock import Clock
from tychod.config import Config
from tychod.hostfs import node_name
from tychod.model import NodeFacts
from tychod.version import read_build


class Stoppable(Protocol):
    """A part with a thread of its own."""

    def ask_stop(self) -> None:
        """Tell the thread to end."""

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; False when it hangs."""


def node_facts(config: Config, boot: str) -> NodeFacts:
    """Return what does not change while the daemon runs; accounting is not known yet."""
    build = read_build()
    return NodeFacts(
        node=config.kubelet.node_name or node_name(),
        boot_id=boot,
        version=build.version,
        commit=build.commit,
        built=build.built,
        accounting_method="none",
        accounting_reason="not known",
        hierarchy="none",
        hierarchy_reason="not known",
    )


def params_of(config: Config, cpus: int, memory: int) -> Params:
    """Return the analysis parameters that the settings give; ``memory`` in bytes."""
    slowest_ns = max(config.rapl.interval, config.model.interval, config.hwmon.interval) * 1e9
    return Params(
        cpus=cpus,
        late_tolerance_ns=max(LATE_NS, round(1.5 * slowest_ns)),
        stale_ns=max(STALE_NS, round(3 * slowest_ns)),
        terminated_age_ns=round(config.workloads.terminated_age * 1e9),
        terminated_max=config.workloads.terminated_max,
        terminated_min_uj=round(config.workloads.terminated_min_energy * 1e6),
        idle_policy=config.attribution.idle,
        gpu_idle=config.attribution.gpu_idle,
        memory_bytes=memory,
    )


def with_keys(config: Config, fresh: Config, keys: Iterable[str]) -> Config:
    """Return ``config`` with the values of some dotted keys taken from ``fresh``."""
    for key in keys:
        section, _, name = key.partition(".")
        value = getattr(getattr(fresh, section), name)
        changed = dataclasses.replace(getattr(config, section), **{name: value})
        config = dataclasses.replace(config, **{section: changed})
    return config


def stop_all(parts: Sequence[Stoppable], clock: Clock, deadline_ns: int) -> None:
    """Stop all parts at once; they get until the deadline, and one that hangs is left behind."""
    for part in parts:
        part.ask_stop()
    for part in parts:
        part.join(max(deadline_ns - clock.now_ns(), 0) / 1e9)
