"""The sources: one file each, all of them in these tables."""

from __future__ import annotations

from typing import Final

from tychod.collectors import cpu, hwmon, ipmi, model, nvml, rapl, redfish

ENERGY_COLLECTORS: Final = (rapl.SPEC, redfish.SPEC, ipmi.SPEC, hwmon.SPEC, model.SPEC)
"""In order of preference: of what two of them measure, the first one counts; a modelled one is for
machines where no measured one is ready."""

GPU_COLLECTOR: Final = nvml.SPEC

CPU_COLLECTOR: Final = cpu.SPEC

COLLECTORS: Final = (*ENERGY_COLLECTORS, GPU_COLLECTOR, CPU_COLLECTOR)
