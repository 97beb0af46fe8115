"""What was learned of devices is kept while they are the same, and is never in the way."""

import logging
from pathlib import Path

import pytest

from tychod.model import SourceDevice
from tychod.runtime.calibration import FILE_NAME, Calibration, CalibrationFile, Entry, load, save
from tychod.runtime.calibration_run import Power, calibrate, delay_of
from tychod.runtime.store import Store
from tychod.settings import Arguments

GPU = SourceDevice("GPU-1", "A100; driver 550", 0.1, 0.0005, None, None, "learned", 100)
ENTRY = Entry("A100; driver 550", 0.1, 0.0005, 0.2, 0.02, "2026-01-02")


def stored(tmp_path: Path) -> CalibrationFile:
    """A file that knows one GPU."""
    save(tmp_path / FILE_NAME, Calibration({"GPU-1": ENTRY}))
    return CalibrationFile(tmp_path)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """A round trip keeps every value, absent ones and odd names too; others may not read it."""
    odd = Entry('x"] \\ é', None, None, None, None, "")
    path = tmp_path / FILE_NAME

    save(path, Calibration({"GPU-1": ENTRY, 'a."b"\n': odd, "": odd}))

    assert load(path).devices == {"GPU-1": ENTRY, 'a."b"?': odd, "": odd}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


def test_changed_device_is_not_known(tmp_path: Path) -> None:
    """After a new driver what was measured is left alone, and it is said which and why."""
    calibration = stored(tmp_path).calibration

    assert calibration.period("GPU-1", "A100; driver 550") == (0.1, 0.0005)
    assert calibration.delay("GPU-1", "A100; driver 550") == (0.2, 0.02)
    assert calibration.period("GPU-1", "A100; driver 560") is None
    assert calibration.refusal("GPU-1", "A100; driver 550") is None
    refusal = calibration.refusal("GPU-1", "A100; driver 560\x1b[2J")
    assert refusal is not None
    assert "driver 550" in refusal
    assert "\x1b" not in refusal


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b"version = 1\n[devices.x]\nperiod_s = nan",
        b"version = 1\n[devices.x]\nperiod_s = -1",
        b"version = 1\n[devices.x]\nperiod_s = 0",
        b"version = 1\n[devices.x]\nperiod_s = true",
        b"version = 1\n[devices.x]\nperiod_s = 1" + b"0" * 400,
        b"version = 1\n[devices.x]\nfingerprint = 3",
        b"version = 1\ndevices = 3",
        b"version = 1\ndevices.x = 3",
        b"version = 9",
        b"",
        b"x = " + b"[" * 5000,
        b"#" * 300_000,
    ],
)
def test_damaged_file_is_kept_aside(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a file holds, the daemon starts, says what is wrong in one line, and keeps it."""
    path = tmp_path / FILE_NAME
    path.write_bytes(text)

    with caplog.at_level(logging.ERROR):
        assert load(path) == Calibration()

    (line,) = caplog.messages
    assert "damaged" in line
    assert len(line) < 1000
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == text
    assert kept.name.startswith("calibration.damaged-")


def test_absent_file_is_nothing_known(tmp_path: Path) -> None:
    """The first start says nothing and knows nothing."""
    assert load(tmp_path / FILE_NAME) == Calibration()


@pytest.mark.parametrize(
    ("period_s", "sd_s", "origin", "is_written"),
    [
        (0.101, 0.0003, "learned", False),  # 1 %
        (0.103, 0.0010, "learned", False),  # 3 %, and not sure
        (0.103, 0.0005, "learned", True),
        (0.103, 0.0005, "calibrated", False),  # nobody learned it
        (0.200, 0.0200, "learned", False),  # 10 % unsure
        (None, None, "default", False),
    ],
)
def test_drift_is_written(
    tmp_path: Path, period_s: float | None, sd_s: float | None, origin: str, is_written: bool
) -> None:
    """A period is kept anew when it differs by 2 % and by more than both are unsure."""
    file = stored(tmp_path)
    now = GPU._replace(period_s=period_s, period_sd_s=sd_s, origin=origin)

    assert file.learn([now], 0.0, "2026-03-04") is is_written

    kept = load(file.path).devices["GPU-1"]
    assert kept == (
        ENTRY._replace(period_s=0.103, period_sd_s=0.0005, date="2026-03-04")
        if is_written
        else ENTRY
    )


@pytest.mark.parametrize(
    ("period_s", "sd_s", "updates", "is_kept"),
    [
        (0.0971, 0.0037, 100, False),  # 4 % unsure
        (0.1, 0.0009, 49, False),
        (0.1, 0.0009, 50, True),
        (2.0, 0.09, 9, False),
        (2.0, 0.11, 10, False),
        (2.0, 0.09, 10, True),  # a BMC's fifty updates would take minutes
    ],
)
def test_first_guess_is_not_kept(
    tmp_path: Path, period_s: float, sd_s: float, updates: int, is_kept: bool
) -> None:
    """A device is followed for a while before its period is stored."""
    now = GPU._replace(period_s=period_s, period_sd_s=sd_s, updates=updates)

    assert CalibrationFile(tmp_path).learn([now], 0.0, "2026-01-02") is is_kept


def test_surer_value_replaces_a_rough_one(tmp_path: Path) -> None:
    """A value with less than half the standard deviation is kept in place of the one before."""
    rough = ENTRY._replace(period_s=0.0971, period_sd_s=0.0037, delay_s=1.9, delay_sd_s=0.4)
    save(tmp_path / FILE_NAME, Calibration({"GPU-1": rough}))
    file = CalibrationFile(tmp_path)

    assert file.learn([GPU._replace(delay_s=1.75, delay_sd_s=0.05)], 0.0, "2026-03-04")
    assert load(file.path).devices["GPU-1"][1:5] == (0.1, 0.0005, 1.75, 0.05)
    as_sure = GPU._replace(period_s=0.1003, period_sd_s=0.0003, delay_s=1.8, delay_sd_s=0.04)
    assert not file.learn([as_sure], 100.0, "2026-03-05")


def test_it_is_written_once_a_minute_at_most(tmp_path: Path) -> None:
    """A period that keeps changing does not wear the disk."""
    file = CalibrationFile(tmp_path)

    written = [
        file.learn([GPU._replace(period_s=0.1 + second / 1000)], float(second), "2026-01-02")
        for second in range(181)
    ]

    assert written.count(True) == 4


def test_new_driver_begins_a_new_entry(tmp_path: Path) -> None:
    """The delay of the device as it was does not pass to the device as it is."""
    file = stored(tmp_path)

    file.learn([GPU._replace(fingerprint="A100; driver 560")], 0.0, "2026-03-04")

    assert load(file.path).devices["GPU-1"] == Entry(
        "A100; driver 560", 0.1, 0.0005, None, None, "2026-03-04"
    )


def test_full_disk_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that takes no file is one message; what is known stays known."""
    file = CalibrationFile(tmp_path / "gone")

    with caplog.at_level(logging.ERROR):
        assert not file.learn([GPU], 0.0, "2026-01-02")
        assert not file.learn([GPU], 100.0, "2026-01-02")

    assert len(caplog.messages) == 1
    assert file.problem is not None


def test_device_is_shown_with_its_delay_and_date(tmp_path: Path) -> None:
    """What the collector cannot know is added to what it tells."""
    calibration = stored(tmp_path).calibration

    shown = calibration.known(GPU._replace(origin="calibrated"))

    assert (shown.delay_s, shown.origin) == (0.2, "calibrated 2026-01-02")
    assert calibration.known(GPU._replace(fingerprint="other")).delay_s is None


def test_delay_is_measured_from_edges_of_a_load() -> None:
    """The first update over the noise of rest, after each launch; too few edges tell nothing."""
    second = 1_000_000_000
    launches = [second * (6 + 12 * number) for number in range(5)]
    values = [
        Power(t_ns, "gpu", 50.0 + (t_ns // 10**8) % 2 + 200.0 * is_busy(t_ns, launches))
        for t_ns in range(0, 60 * second, second // 10)
    ]

    measured = delay_of(values, launches)

    assert measured is not None
    assert measured[0] == pytest.approx(0.3)
    assert measured[1] == pytest.approx(0.0)
    assert delay_of(values, launches[:2]) is None
    idle = [value._replace(watts=50.0) for value in values]
    assert delay_of(idle, launches) is None


def is_busy(t_ns: int, launches: list[int]) -> bool:
    """Whether power shows a load by then: 0.3 s late, for 6 s."""
    return any(300_000_000 <= t_ns - launch <= 6_300_000_000 for launch in launches)


def test_calibration_without_devices_says_why(tmp_path: Path) -> None:
    """Where nothing publishes the command fails at once with one line for each source."""
    (tmp_path / "tychod.toml").write_text(
        '[nvml]\nlibrary = "/nonexistent.so"\n[redfish]\nenabled = false\n'
    )
    args = Arguments(config_dir=str(tmp_path))
    environ = {"STATE_DIRECTORY": str(tmp_path / "state")}

    outcome = calibrate(args, environ, seconds=60.0, load="", as_json=False)

    assert outcome.code == 1
    assert "nvml: " in outcome.text
    assert not (tmp_path / "state" / FILE_NAME).exists()


def test_calibration_beside_a_daemon_is_refused(tmp_path: Path) -> None:
    """The state directory is locked by its daemon, which calibrates by itself."""
    (tmp_path / "tychod.toml").write_text("")
    store = Store(tmp_path)
    try:
        outcome = calibrate(
            Arguments(config_dir=str(tmp_path)),
            {"STATE_DIRECTORY": str(tmp_path)},
            seconds=1.0,
            load="",
            as_json=False,
        )
    finally:
        store.close()

    assert outcome.code == 1
    assert "tychoctl sources" in outcome.text
