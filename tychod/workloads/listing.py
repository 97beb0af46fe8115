"""What the kubelet lists, kept for as long as there are cgroups of it."""

from collections.abc import Collection, Iterable

from tychod.workloads.known import Known
from tychod.workloads.pods import Container, Pod


class Listing:
    """The pods of the last good answers, and their containers by id."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self._by_id: dict[str, tuple[Container, Pod]] = {}

    def absorb(self, pods: Iterable[Pod], alive: Collection[str]) -> None:
        """Take over an answer; ``alive`` are the uids of pods that have a cgroup.

        A pod that the answer lacks is kept while it has one: a removed static pod leaves the list
        at once and runs on for its whole grace period (observed with kubelet v1.36).
        """
        listed = tuple(pods)
        kept = {uid: pod for uid, pod in self.pods.items() if uid in alive}
        self.pods = kept | {pod.uid: pod for pod in listed}
        self._by_id = {c.id: (c, pod) for pod in listed for c in pod.containers}

    def entry_of(self, known: Known) -> tuple[Container, Pod] | None:
        """Return what the kubelet calls a container: of its own pod, where that is listed.

        Two pods may claim one id, and an API server that is away freezes the ids, never the uids.
        Where the path's pod is not listed the id alone must do: mirror pods have other uids.
        """
        pod = self.pods.get(known.base.pod_uid or "")
        if pod is None:
            return self._by_id.get(known.base.id)
        own = next((c for c in pod.containers if c.id == known.base.id), None)
        return (own, pod) if own else None

    def pod_of(self, known: Known) -> Pod | None:
        """Return the newest that is known of a workload's pod."""
        told = known.listed[1] if known.listed else None
        return self.pods.get(told.uid if told else known.hosts_pod or "") or told
