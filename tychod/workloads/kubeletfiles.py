"""Where the kubelet keeps its own files: one directory, at another place per distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tychod.hostfs import FileIdentity, Host

ROOTS: Final = ("lib/kubelet", "snap/microk8s/common/var/lib/kubelet", "lib/k0s/kubelet")
"""Below /var: most distributions (kubeadm, k3s, RKE2), MicroK8s, k0s."""


UNUSED: Final = "not used yet: "
"""How the text of a route begins that nobody has missed."""


def absent(paths: tuple[str, ...], *, unused: bool) -> tuple[str, str]:
    """Return why a file of the kubelet is not read, and what to do; ``unused``: nor was it ever."""
    others = ", nor where MicroK8s and k0s have it" if len(paths) > 1 else ""
    reason = f"{UNUSED if unused else ''}there is no {paths[0]}{others}"
    return reason, "if a kubelet runs here, set [kubelet] root_dir to its directory"


def kubelet_paths(host: Host, root_dir: str, name: str) -> tuple[str, ...]:
    """Return where a file of the kubelet may be: below the configured directory, or the usual."""
    roots = (root_dir.rstrip("/"),) if root_dir else tuple(f"{host.var}/{root}" for root in ROOTS)
    return tuple(f"{root}/{name}" for root in roots)


def find_newest(host: Host, paths: Iterable[str]) -> tuple[str, FileIdentity] | None:
    """Return the path that was last written to, None if there is none; OSError if forbidden.

    A directory may be left over from a cluster that this node was once part of.
    """
    there = [(path, found) for path in paths if (found := host.identity(path)) is not None]
    return max(there, key=lambda pair: pair[1].mtime_ns, default=None)
