"""One sensor of hwmon whose file says what cannot be."""

from contextlib import closing
from pathlib import Path

import pytest

from tests.fixtures.hosts.trees import SECOND, SetClock, host_at
from tychod.collectors.hwmon_meter import Meter
from tychod.samples import EnergyZone


@pytest.mark.parametrize("slip", ["18446744073709551611", "4611686018427387903", "1099511627776"])
def test_a_counter_that_slips_is_not_followed(tmp_path: Path, slip: str) -> None:
    """One value far off is rejected and told; where the counter stays there it is believed."""
    clock, file = SetClock(), tmp_path / "energy1_input"
    zone = EnergyZone("hwmon:amd_energy:energy1", "package", "amd_energy", 0, 0, 1000.0)
    meter = Meter(host_at(tmp_path), zone, [str(file)])

    def read(text: str) -> int | None:
        clock.t_ns += SECOND
        file.write_text(text)
        return meter.read(clock.t_ns)

    with closing(meter):
        assert read("101000000") == 101_000_000
        assert read(slip) is None
        assert (meter.reason or "").startswith("rejected")
        assert read("301000000") == 301_000_000, "what it counted meanwhile is there"
        assert "1 implausible" in (meter.problem(clock.t_ns) or "")
        assert read("7") is None, "a fall is doubted too: zero is what some drivers say on errors"
        assert read("100000007") == 100_000_007
        assert read("900000000000") is None
        assert read("900100000000") == 900_100_000_000
