"""The worlds of the accuracy table by name, and random small ones for property tests."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tests.sim.generator import Settings

_MIXED = Settings()
_TENANTS = Settings(
    packages=1, cpus=4, workloads=2, patterns=("bursts",), sizes=(1.0, 1.0), intensities=(4.0, 8.0)
)
_CHURN = Settings(workloads=2, patterns=("steady",), sizes=(3.0, 2.0), visitors=50.0)

ROWS: Mapping[str, Settings] = {
    "equal": replace(_MIXED, equal=True),
    "tenants": _TENANTS,
    "mixed": _MIXED,
    "mixed-4cpu": replace(_MIXED, packages=1, cpus=4),
    "mixed-200": replace(_MIXED, workloads=200, cpus=32),
    "concave": replace(_MIXED, curve="sqrt"),
    "concave-exp": replace(_MIXED, curve="exp"),
    "steady": replace(_MIXED, patterns=("steady",)),
    "blips": replace(_MIXED, patterns=("blips",)),
    "change": replace(_MIXED, change=1.5),
    "churn": _CHURN,
    "drift": replace(_MIXED, seconds=600.0, idle_drift=0.2, min_load=0.3),
    "pair": replace(_MIXED, pair=True),
    "delay": _MIXED,
    "scale": replace(_MIXED, scale=3.0),
    "mixed-1x32": replace(_MIXED, packages=1, cpus=32, idle_w=80.0),
    "steady-1x32": replace(_MIXED, packages=1, cpus=32, idle_w=80.0, patterns=("steady",)),
}


def settings(row: str, seed: int) -> Settings:
    """The world of a row; in the row ``delay`` each seed has a delay of its own, 0 to 2 s."""
    found = ROWS[row]
    if row == "delay":
        return replace(found, delay_s=float(np.random.default_rng([seed, 99]).uniform(0.0, 2.0)))
    return found


def random_settings(rng: np.random.Generator) -> Settings:
    """A small world with everything in it that can differ, for property tests."""
    names = ("bursts", "blips", "square", "steady")
    return Settings(
        packages=int(rng.integers(1, 4)),
        cpus=int(rng.integers(1, 9)),
        seconds=float(rng.integers(8, 16)),
        workloads=int(rng.integers(2, 9)),
        patterns=tuple(names[i] for i in rng.permutation(4)[: rng.integers(1, 5)]),
        load=float(rng.uniform(0.1, 1.2)),
        sigma=float(rng.uniform(0.0, 0.8)),
        curve=str(rng.choice(["linear", "sqrt", "exp"])),
        change=float(rng.choice([1.0, 1.5])),
        pair=bool(rng.integers(2)),
        visitors=float(rng.choice([0.0, 5.0])),
        idle_w=float(rng.uniform(0.0, 60.0)),
        idle_drift=float(rng.choice([0.0, 0.2])),
        node_noise_w=float(rng.uniform(0.0, 2.0)),
        late_every=int(rng.choice([0, 10, 200])),
        lost_every=int(rng.choice([0, 10, 1000])),
        delay_s=float(rng.choice([0.0, 0.13, 1.7])),
        wraps=int(rng.integers(0, 4)),
    )
