"""GPUs that are divided (Multi-Instance GPU): their parts, and how busy each of them is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tychod.collectors.nvml_library import SUCCESS, Calls, bounded
from tychod.samples import MigInstance

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB: Final = 1 << 20
MOST_INSTANCES: Final = 16  # no GPU has more than 7
_PROFILE: Final = re.compile(r"\bMIG (\S+)")
GPM_GRAPHICS_UTIL: Final = 1
"""nvml.h: share of the time in which a compute or graphics context was active, in percent."""


class Mig:
    """The instances of one device, and their activity where the driver tells it (Hopper and on)."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.slices = 0  # compute slices of the whole device; 0: it is not divided
        self.instances: tuple[MigInstance, ...] = ()
        self.handles: tuple[Any, ...] = ()
        self._samples: dict[int, tuple[Any, Any]] = {}  # GPU instance -> earlier, spare
        self._is_measured: bool | None = None

    def look(self) -> None:
        """Ask how the device is divided; each of these calls may take the driver 100 ms."""
        mode = self._calls.ask("nvmlDeviceGetMigMode")
        if not mode or mode[0] != 1:
            self.slices, self.instances, self.handles = 0, (), ()
            return
        most = self._calls.ask("nvmlDeviceGetMaxMigDeviceCount") or 0
        self.slices = min(most, MOST_INSTANCES)
        handles = [
            self._calls.ask("nvmlDeviceGetMigDeviceHandleByIndex", i) for i in range(self.slices)
        ]
        self.handles = tuple(handle for handle in handles if handle is not None)
        found = (describe_instance(Calls(self._calls.pynvml, handle)) for handle in self.handles)
        self.instances = tuple(instance for instance in found if instance is not None)

    def activity(self) -> tuple[tuple[int, float], ...]:
        """Return (GPU instance, busy share since the last call); none where it is not told."""
        present = {instance.gpu_instance for instance in self.instances}
        for gone in self._samples.keys() - present:
            self._free(self._samples.pop(gone))
        if not present or not self._can_measure():
            return ()
        shares = [(number, self._share(number)) for number in sorted(present)]
        return tuple((number, share) for number, share in shares if share is not None)

    def close(self) -> None:
        """Give back what activity was measured with."""
        for pair in self._samples.values():
            self._free(pair)
        self._samples.clear()

    def _can_measure(self) -> bool:
        if self._is_measured is None:
            support = self._calls.ask("nvmlGpmQueryDeviceSupport")
            self._is_measured = bool(support and support.isSupportedDevice)
        return self._is_measured

    def _share(self, number: int) -> float | None:
        """Return how busy an instance was between two samples of the driver's counters."""
        pynvml = self._calls.pynvml
        pair = self._samples.get(number)
        is_first = pair is None
        try:
            earlier, spare = pair or (pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc())
        except pynvml.NVMLError:
            return None
        self._samples[number] = (earlier, spare)
        if self._calls.ask("nvmlGpmMigSampleGet", number, spare) is None:
            return None
        self._samples[number] = (spare, earlier)
        return None if is_first else self._compare(earlier, spare)

    def _compare(self, earlier: Any, later: Any) -> float | None:
        pynvml = self._calls.pynvml
        asked = pynvml.c_nvmlGpmMetricsGet_t()
        asked.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        asked.numMetrics = 1
        asked.sample1, asked.sample2 = earlier, later
        asked.metrics[0].metricId = GPM_GRAPHICS_UTIL
        try:
            metric = pynvml.nvmlGpmMetricsGet(asked).metrics[0]
        except pynvml.NVMLError:
            return None
        # A NaN is neither below nor above.
        if metric.nvmlReturn != SUCCESS or not 0.0 <= metric.value <= 100.0:
            return None
        return float(metric.value) / 100

    def _free(self, pair: Sequence[Any]) -> None:
        pynvml = self._calls.pynvml
        for sample in pair:
            try:
                pynvml.nvmlGpmSampleFree(sample)
            except pynvml.NVMLError:
                continue  # the driver that gave it has gone


def describe_instance(calls: Calls) -> MigInstance | None:
    """Return what an instance tells of itself; None where it tells too little."""
    uuid = calls.ask_text("nvmlDeviceGetUUID")
    number = calls.ask("nvmlDeviceGetGpuInstanceId")
    attributes = calls.ask("nvmlDeviceGetAttributes_v2")
    if not uuid or number is None or attributes is None:
        return None
    memory_mib = attributes.memorySizeMB
    return MigInstance(
        uuid=uuid,
        gpu_instance=number,
        slices=attributes.computeInstanceSliceCount or attributes.gpuInstanceSliceCount,
        memory_bytes=memory_mib * MIB if memory_mib else None,
        profile=parse_profile(bounded(calls.ask("nvmlDeviceGetName"))),
    )


def parse_profile(name: str) -> str:
    """Return 1g.10gb of ``NVIDIA H100 80GB HBM3 MIG 1g.10gb``; empty: it names none."""
    found = _PROFILE.search(name)
    return found[1] if found else ""
