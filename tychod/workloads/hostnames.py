"""The names of containers from the host alone: bundles, runtimes' files, log links, commands."""

from collections.abc import Mapping
from typing import Final

from tychod.hostfs import Host
from tychod.workloads.hostfiles import Bundles, CommandLines, LogLinks, Names
from tychod.workloads.known import Known
from tychod.workloads.paths import name_from_cmdline
from tychod.workloads.runtimefiles import RuntimeFiles

OWN_RECORDS: Final = ("docker", "podman")
"""Runtimes that keep names in records of their own."""
KATA_OVERHEAD: Final = "kata_overhead:"
NAMED_BY_PATH: Final = ("lxc", "nspawn", "buildkit")


class HostNames:
    """All routes to a name that need no credential; which one gave it is in the name."""

    def __init__(self, host: Host, cgroup_root: str) -> None:
        self._bundles = Bundles(host)
        self._links = LogLinks(host)
        self._files = RuntimeFiles(host)
        self._cmdlines = CommandLines(host, cgroup_root)

    @property
    def routes(self) -> Mapping[str, str]:
        """Each of them: "ok", or why it gives none and what to do."""
        return {
            "bundle": self._bundles.route,
            "runtime-file": self._files.route,
            "log-link": self._links.route,
        }

    def read(self, known: Known, now_ns: int) -> Names | None:
        """Return what the files say of a container; only the host's own runtimes write them.

        Others may write log links: their uid must be checked against one that the path names.
        """
        base = known.base
        if not known.is_hosts or base.runtime in NAMED_BY_PATH:
            return None
        if base.runtime in OWN_RECORDS and base.pod_uid is None:
            return self._files.read(base.id, base.runtime, now_ns)
        ident = base.id.removeprefix(KATA_OVERHEAD)  # what is left is the sandbox's id
        return (
            self._bundles.read(ident, now_ns)
            or (self._links.read(ident, now_ns) if base.pod_uid else None)
            or self._files.read(ident, base.runtime, now_ns, base.pod_uid)
        )

    def read_cmdline(self, known: Known) -> Names | None:
        """Return the last resort outside of pods: what the first process was told, or the path.

        It is asked once: a later process of the container says nothing about its name.
        """
        base = known.base
        if base.pod_uid is not None or base.runtime in NAMED_BY_PATH:
            return None
        if base.runtime == "podman" and known.is_hosts and known.attempts == 0:
            return None  # its record may be younger than the last look at them
        argv = self._cmdlines.read(base.cgroup or "")
        if not argv:
            return None
        name = name_from_cmdline(argv)
        return Names("cmdline", name) if name else Names("path", base.name)
