"""A true counter of the platform, and what is left of it beyond the parts."""

from collections.abc import Mapping

import pytest

from tests.sim.platformnode import PARAMS
from tests.unit.test_platform import step
from tychod.analysis.energy import DomainWindow, domain_windows, zone_windows
from tychod.analysis.platform_memory import PlatformMemory
from tychod.analysis.state import State, ZonePoint
from tychod.model import Window
from tychod.samples import EnergySample, EnergySeries, EnergyZone

S = 1_000_000_000


def counter(*told: tuple[float, int]) -> EnergySeries:
    """A meter that counts, ``(seconds, joules)``."""
    zone = EnergyZone("hwmon:meter", "platform", "meter", None, 0, 1_000.0)
    samples = tuple(EnergySample(round(t * S), (j * 1_000_000,)) for t, j in told)
    return EnergySeries("hwmon", "measured", (zone,), samples, {})


def package(
    end_s: float,
    *told: tuple[float, int],
    quality: str = "measured",
    point: ZonePoint | None = None,
) -> tuple[Mapping[str, DomainWindow], ZonePoint]:
    """The package's counter in a window of three seconds, and where it ends."""
    zone = EnergyZone("sim:package", "package", "package-0", 0, 0, 1_000.0)
    samples = tuple(EnergySample(round(t * S), (j * 1_000_000,)) for t, j in told)
    series = EnergySeries("sim", quality, (zone,), samples, {})
    state = State(zones={zone.key: point} if point else {})
    window = Window(round((end_s - 3) * S), round(end_s * S))
    zones = zone_windows(series, window, state, PARAMS)
    return domain_windows(zones), zones[0].point


def test_a_true_counter_is_taken_as_it_is() -> None:
    """Its energy is the domain's, over exactly its own time; nothing is fitted."""
    first, point = package(3, (0, 0), (3, 90))
    _, memory = step(counter((0, 1000), (2, 1200)), 3, PlatformMemory(), first)
    second, _ = package(6, (3, 90), (6, 150), point=point)
    found, memory = step(counter((2, 1200), (6, 1700)), 6, memory, second)
    assert (found.energy_uj, found.total_uj, found.fit) == (500_000_000, 700_000_000, None)
    assert (found.from_ns, found.through_ns) == (2 * S, 6 * S)
    assert found.residual is not None
    assert found.residual.usable
    assert found.residual.energy_uj == (700 - 150) * 1_000_000
    assert found.residual.power_w == pytest.approx((500 - 90) / 4)


def test_parts_may_exceed_the_platform() -> None:
    """The rest is signed: it is neither cut off nor lost (46)."""
    parts_now, _ = package(3, (0, 0), (3, 300))
    found, _ = step(counter((0, 0), (3, 200)), 3, PlatformMemory(), parts_now)
    assert found.residual is not None
    assert found.residual.energy_uj == -100_000_000


def test_a_modelled_package_leaves_no_usable_rest() -> None:
    """The rest of a guess is a guess; the figures still add up."""
    parts_now, _ = package(3, (0, 0), (3, 90), quality="modelled")
    found, _ = step(counter((0, 0), (3, 200)), 3, PlatformMemory(), parts_now)
    assert found.residual is not None
    assert found.residual.energy_uj == 110_000_000
    assert not found.residual.usable
    assert found.residual.reason == "the package's power is modelled, not measured"
