"""When a simulated BMC publishes, and what of the machine's power it has seen by then."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

BOXCAR_POINTS: Final = 20


@dataclass(frozen=True)
class Cadence:
    """How a BMC sees the machine's power, and when it says so."""

    period_s: float = 2.0
    jitter_s: float = 0.0  # standard deviation of each period
    delay_s: float = 0.0
    boxcar_s: float = 0.0
    noise_w: float = 0.0
    quantum_w: float = 1.0
    seed: int = 1


class Published(NamedTuple):
    """One value that the BMC published."""

    number: int
    t_s: float  # seconds since the start
    power_w: float


class Publisher:
    """Publishes from a power function of seconds since the start."""

    def __init__(self, power_w: Callable[[float], float], cadence: Cadence) -> None:
        self._power_w = power_w
        self._cadence = cadence
        self._random = random.Random(cadence.seed)
        self.begun_ns = time.monotonic_ns()
        self.values = [Published(0, 0.0, self._seen_w(0.0))]
        self._next_s = cadence.period_s

    def newest(self) -> Published:
        """Return what stands published now."""
        now_s = (time.monotonic_ns() - self.begun_ns) / 1e9
        while self._next_s <= now_s:
            self.values.append(
                Published(len(self.values), self._next_s, self._seen_w(self._next_s))
            )
            period_s = self._random.gauss(self._cadence.period_s, self._cadence.jitter_s)
            self._next_s += max(period_s, self._cadence.period_s / 4)
        return self.values[-1]

    def _seen_w(self, t_s: float) -> float:
        c = self._cadence
        end_s = t_s - c.delay_s
        at_s = [end_s - c.boxcar_s * (i + 0.5) / BOXCAR_POINTS for i in range(BOXCAR_POINTS)]
        mean_w = math.fsum(map(self._power_w, at_s)) / BOXCAR_POINTS if c.boxcar_s else 0.0
        seen_w = mean_w if c.boxcar_s else self._power_w(end_s)
        seen_w += self._random.gauss(0.0, c.noise_w)
        return round(seen_w / c.quantum_w) * c.quantum_w if c.quantum_w else seen_w
