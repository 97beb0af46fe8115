"""The sources: one file each, all of them in this table."""

from __future__ import annotations

from typing import Final

from tychod.collectors import cpu, model, rapl

ENERGY_COLLECTORS: Final = (rapl.SPEC, model.SPEC)
"""In order of preference: a modelled one is for machines where no measured one is ready."""

CPU_COLLECTOR: Final = cpu.SPEC

COLLECTORS: Final = (*ENERGY_COLLECTORS, CPU_COLLECTOR)
