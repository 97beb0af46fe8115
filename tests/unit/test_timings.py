"""The daemon keeps what it learns of when devices publish, through the rows that it shows."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.snapshots import FIT, make_snapshot
from tychod.collectors.base import Timing
from tychod.model import PlatformFit, Snapshot, SourceDevice, SourceStatus
from tychod.runtime.calibration import FILE_NAME, Entry, load
from tychod.runtime.timings import TimingKeeper

BMC = SourceDevice("redfish:1", "M1, firmware 2.14", 2.0, 0.02, None, None, "learned", 40)
AGO_S = 61.0


class MovedClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.t_s = 1000.0

    def now_ns(self) -> int:
        """Monotonic time."""
        return round(self.t_s * 1e9)

    def wall_offset_ns(self) -> int:
        """From then to the first of March 2026."""
        return 1_772_323_200 * 10**9 - 1000 * 10**9


class Life:
    """One life of the daemon as far as its calibration goes: shown, then learned, as it does."""

    def __init__(self, folder: Path) -> None:
        self.clock = MovedClock()
        self.folder = folder
        self.keeper = TimingKeeper(folder, self.clock)

    def minute(self, device: SourceDevice, fit: PlatformFit | None = None) -> SourceDevice:
        """Let a minute pass; return the device as it is shown."""
        self.clock.t_s += AGO_S
        assert self.keeper.is_due()
        (row,) = self.keeper.shown([row_of(device)], snapshot(fit))
        self.keeper.learn([row])
        return row.devices[0]

    def kept(self) -> Entry:
        """Return what is in the file."""
        return load(self.folder / FILE_NAME).devices[BMC.name]


def row_of(device: SourceDevice) -> SourceStatus:
    """The row of a BMC."""
    return SourceStatus(
        name="redfish",
        enabled="auto",
        state="ok",
        quality="measured",
        reason=None,
        remedy=None,
        interval_s=1.0,
        delay_s=0.0,
        samples=100,
        errors=0,
        last_sample_ns=1,
        devices=(device,),
    )


def snapshot(fit: PlatformFit | None) -> Snapshot:
    """A snapshot whose platform is the BMC's."""
    made = make_snapshot()
    platform = replace(made.domains["platform"], source="redfish")
    return replace(made, fit=fit, domains={**made.domains, "platform": platform})


def fitted(centroid_s: float, sd_s: float) -> PlatformFit:
    """A fit that is sure of its delay to so many seconds."""
    return replace(FIT, method="fused", centroid_s=centroid_s, centroid_sd_s=sd_s)


def test_period_and_delay_are_stored_and_begun_with(tmp_path: Path) -> None:
    """What a life has learned the next one begins with, and shows with its date."""
    life = Life(tmp_path)
    life.minute(BMC)
    assert life.kept() == Entry("M1, firmware 2.14", 2.0, 0.02, None, None, "2026-03-01")
    life.minute(BMC, fitted(2.25, 0.06))
    assert life.kept() == Entry("M1, firmware 2.14", 2.0, 0.02, 2.25, 0.06, "2026-03-01")

    after = Life(tmp_path)

    assert after.keeper.find(BMC.name, BMC.fingerprint) == Timing(2.0, 0.02, 2.25)
    begun = BMC._replace(period_s=None, period_sd_s=None, origin="calibrated", updates=0)
    shown = after.minute(begun)
    assert (shown.origin, shown.delay_s, shown.delay_sd_s) == ("calibrated 2026-03-01", 2.25, 0.06)
    assert after.kept() == life.kept()


def test_delay_is_learned_of_a_device_that_still_has_its_calibrated_period(tmp_path: Path) -> None:
    """A row that is shown as calibrated takes the delay that drifted, and keeps its period."""
    life = Life(tmp_path)
    life.minute(BMC, fitted(2.25, 0.06))
    begun = BMC._replace(period_s=5.0, origin="calibrated", updates=0)

    life.minute(begun, fitted(4.25, 0.1))

    assert life.kept()[1:5] == (2.0, 0.02, 4.25, 0.1)


@pytest.mark.parametrize(
    "fit", [None, fitted(2.25, 0.5), replace(fitted(2.25, 0.06), method="hold")]
)
def test_delay_that_is_not_known_is_not_stored(tmp_path: Path, fit: PlatformFit | None) -> None:
    """An estimate that is not sure, or not in use, is none."""
    life = Life(tmp_path)

    assert life.minute(BMC, fit).delay_s is None
    assert life.kept().delay_s is None


def test_drift_of_both_is_stored_and_noise_is_not(tmp_path: Path) -> None:
    """The delay's jump and the period's are kept; what is within their errors is not."""
    life = Life(tmp_path)
    life.minute(BMC, fitted(2.25, 0.06))

    life.minute(BMC._replace(period_s=2.03), fitted(2.35, 0.05))
    assert life.kept()[1:5] == (2.0, 0.02, 2.25, 0.06)
    life.minute(BMC._replace(period_s=3.0), fitted(4.25, 0.08))
    assert life.kept()[1:5] == (3.0, 0.02, 4.25, 0.08)


def test_other_firmware_is_told_once_and_learned_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of the device as it was is used; one line says so for each change."""
    Life(tmp_path).minute(BMC, fitted(2.25, 0.06))
    life = Life(tmp_path)

    caplog.set_level(logging.INFO)
    found = [life.keeper.find(BMC.name, "M1, firmware 3.0") for _ in range(3)]
    assert found == [None] * 3
    assert len(caplog.messages) == 1
    assert "firmware 3.0" in caplog.messages[0]

    now = BMC._replace(fingerprint="M1, firmware 3.0", period_s=1.0, period_sd_s=0.01)
    assert life.minute(now._replace(updates=3)).delay_s is None
    assert life.kept().fingerprint == BMC.fingerprint
    life.minute(now)
    assert life.kept()[:5] == ("M1, firmware 3.0", 1.0, 0.01, None, None)

    life.keeper.find(BMC.name, BMC.fingerprint)
    assert sum("is not used" in message for message in caplog.messages) == 2
