"""What the kubelet lists, kept for as long as there are cgroups of it."""

from collections.abc import Collection, Iterable, Mapping

from tychod.workloads.known import Known
from tychod.workloads.pods import Claim, Pod, claim_of, claims


class Listing:
    """The pods of the last good answers, and their containers by id."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self._by_id: Mapping[str, tuple[Claim, ...]] = {}

    def absorb(self, pods: Iterable[Pod], alive: Collection[str]) -> set[str]:
        """Take over an answer and return the uids of pods that came or changed by it.

        ``alive`` are the uids of pods that have a cgroup.  A pod that the answer lacks is kept
        while it has one: a removed static pod leaves the list at once and runs on for its whole
        grace period (observed with kubelet v1.36).
        """
        before = self.pods
        # Most are as they were: the same object tells at once that there is nothing to do.
        listed = [_same(before.get(pod.uid), pod) for pod in pods]
        kept = {uid: pod for uid, pod in before.items() if uid in alive}
        self.pods = kept | {pod.uid: pod for pod in listed}
        self._by_id = claims(listed)
        return {uid for uid, pod in self.pods.items() if before.get(uid) is not pod}

    def entry_of(self, known: Known) -> Claim | None:
        """Return what the kubelet calls a container; the path's pod is believed, not the list's.

        An API server that is away freezes ids, never uids.
        """
        return claim_of(self._by_id, known.base.id, known.base.pod_uid)

    def pod_of(self, known: Known) -> Pod | None:
        """Return the newest that is known of a workload's pod."""
        told = known.listed[1] if known.listed else None
        return self.pods.get(told.uid if told else known.hosts_pod or "") or told


def _same(before: Pod | None, now: Pod) -> Pod:
    """Return what was told before where nothing else is told now."""
    return before if before is not None and before == now else now
