"""`tychod --calibrate` on a simulated BMC over real HTTPS and a stub of the driver's library."""

import json
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim.bmc import SimBmc, fingerprint, make_certificate
from tests.sim.bmccadence import Cadence
from tests.sim.loads import NoCompilerError
from tests.sim.nvml.world import VARIABLE, Gpu, NvmlWorld, compile_stub
from tychod.collectors.redfish import Redfish
from tychod.runtime.calibration import FILE_NAME
from tychod.runtime.calibration_run import Outcome, calibrate
from tychod.settings import Arguments

LOGIN = ("reader", "secret")
PERIOD_S = 0.6  # three times what a BMC is asked at the fastest
GPU = replace(Gpu(), period_s=0.02)


@pytest.fixture
def bmc(tmp_path: Path) -> Iterator[SimBmc]:
    """A BMC that publishes every 0.6 s, and the settings and credentials to read it."""
    pair = make_certificate(tmp_path)
    with SimBmc(pair, login=LOGIN, cadence=Cadence(PERIOD_S, jitter_s=0.01)) as server:
        file = tmp_path / "redfish.toml"
        file.write_text(
            f'endpoint = "{server.url}"\nusername = "{LOGIN[0]}"\npassword = "{LOGIN[1]}"\n'
        )
        file.chmod(0o600)
        (tmp_path / "tychod.toml").write_text(
            f'[redfish]\ncredentials = "{file}"\nfingerprint = "{fingerprint(pair)}"\n'
            f'timeout = 1.0\n[nvml]\nlibrary = "{tmp_path / "libnvidia-ml.so.1"}"\n'
        )
        yield server


def run(folder: Path, seconds: float) -> Outcome:
    """Calibrate with what is in a folder."""
    environ = {"STATE_DIRECTORY": str(folder / "state")}
    args = Arguments(config_dir=str(folder))
    return calibrate(args, environ, seconds=seconds, load="", as_json=True)


def test_a_bmc_and_a_gpu_are_calibrated(
    bmc: SimBmc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both periods are stored, as sure as it is said; the exit status is 0."""
    try:
        stub = compile_stub(tmp_path)
    except NoCompilerError as exc:
        pytest.skip(str(exc))
    world = NvmlWorld(tmp_path / "world", stub, (GPU,), simulated=False)
    monkeypatch.setenv(VARIABLE, str(world.path))
    try:
        outcome = run(tmp_path, 7.5)
    finally:
        world.close()

    assert outcome.code == 0, outcome.text
    assert json.loads(outcome.text)["reasons"] == []
    kept = tomllib.loads((tmp_path / "state" / FILE_NAME).read_text())["devices"]
    for name, period_s in (("redfish:1", PERIOD_S), (GPU.uuid, GPU.period_s)):
        entry = kept[name]
        assert abs(entry["period_s"] - period_s) < 4 * entry["period_sd_s"]
    assert bmc.seen


def test_a_source_that_fails_beside_one_that_does_not(
    bmc: SimBmc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU is stored, the refused BMC is a line, and the exit status is 1."""
    bmc.fault = "401"
    try:
        stub = compile_stub(tmp_path)
    except NoCompilerError as exc:
        pytest.skip(str(exc))
    world = NvmlWorld(tmp_path / "world", stub, (GPU,), simulated=False)
    monkeypatch.setenv(VARIABLE, str(world.path))
    try:
        outcome = run(tmp_path, 2.5)
    finally:
        world.close()

    assert outcome.code == 1
    assert [r.split(":")[0] for r in json.loads(outcome.text)["reasons"]] == ["redfish"]
    kept = tomllib.loads((tmp_path / "state" / FILE_NAME).read_text())["devices"]
    assert list(kept) == [GPU.uuid]


@pytest.mark.parametrize("fault", ["401", "hang"])
def test_a_bmc_that_fails_is_said_in_a_line(bmc: SimBmc, tmp_path: Path, fault: str) -> None:
    """Nothing is stored, the exit status is 1, and a line says what to do about it."""
    bmc.fault = fault

    outcome = run(tmp_path, 0.5)

    assert outcome.code == 1
    (line,) = [line for line in outcome.text.splitlines() if line.startswith("redfish: ")]
    assert ";" in line or ":" in line
    assert LOGIN[1] not in outcome.text
    assert not (tmp_path / "state" / FILE_NAME).exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.usefixtures("bmc")
def test_a_source_that_dies_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in following a source is told and ends with 1, though its thread is alone."""

    def fail(_: Redfish, now_ns: int) -> int:
        raise AttributeError(now_ns)

    monkeypatch.setattr(Redfish, "due_ns", fail)
    before = threading.active_count()

    outcome = run(tmp_path, 0.3)

    assert outcome.code == 1
    assert "redfish: it is not followed, because of an error" in outcome.text
    assert threading.active_count() <= before
