"""GPU attribution by the cases of another program.

| row | there | here, and why |
|---|---|---|
| idle_cases | least power without a process | median of quiet means: the same figures, but that |
| | | work with 50 W proves a level of 60 W too high |
| device_energy_split | ratio of momentary powers | series of the counter; the same figures |
| same_pid_two_devices | sums | the same |
| mode_detection | by compute mode, once | divided or not; the compute mode bills nobody |
| sample of a process that left | ignored: who stays pays for it | unattributed: DEFECT there |
| all other rows of `cases` | as given | the same |
| dcgm: activity by instance | read as text over HTTP | asked of the driver; same meaning |
| dcgm: text, endpoints, ports, breaker | of that client | there is no such client here |
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.sim.gpuwindow import (
    START_NS,
    WINDOW,
    S,
    device,
    leaf,
    look,
    metered,
    process,
    sample,
    series,
)
from tychod.analysis.gpuidle import IdleMemory
from tychod.analysis.gpumemory import GpuMemory
from tychod.analysis.gpus import GpuWindow, Tenants, gpu_window
from tychod.analysis.gpuseries import DeviceWindow
from tychod.analysis.state import Params
from tychod.model import UNATTRIBUTED_ID, Window
from tychod.samples import GpuDevice, GpuProcess, GpuSeries, MigInstance

PARTS = {
    *("about", "source", "note", "idle_cases", "device_energy_split_cases"),
    *("same_pid_two_devices", "mode_detection_cases", "cases"),
}
DCGM_PARTS = {
    *("about", "source", "note", "cases", "endpoint_normalisation_cases"),
    *("endpoint_validation_cases", "port_choice_cases", "breaker_cases"),
}
OURS = {"sample of a process that left is ignored": {"1": 12.0, UNATTRIBUTED_ID: 48.0}}
"""Rows whose right answer is another one: who stays does not pay for who left."""
PIDS = (1, 2, 3, 9, 1001, 1002, 2001, 1234)


@pytest.fixture(scope="module")
def rows(cases_dir: Path) -> dict[str, Any]:
    """Return the file of attribution cases."""
    found: dict[str, Any] = json.loads((cases_dir / "gpu_attribution.json").read_text())
    assert set(found) == PARTS
    return found


def split(
    windows: Sequence[DeviceWindow], told: GpuSeries, memory: dict[str, GpuMemory]
) -> GpuWindow:
    """Split a window in which each pid is a container of its own, with that pid as its key."""
    known = {pid: leaf(pid) for pid in PIDS}
    tenants = Tenants(known, frozenset(i.id for i in known.values()))
    return gpu_window(windows, told, tenants, WINDOW, memory, Params(cpus=4))


def watts(found: GpuWindow) -> dict[str, float]:
    """Return dynamic watts by pid."""
    pids = {leaf(pid).id: str(pid) for pid in PIDS}
    return {pids.get(i, i): uj / 3e6 for i, uj in found.booked.by_leaf.items()}


def known(idle_w: float, *devices: GpuDevice) -> dict[str, GpuMemory]:
    """Return the memory of devices whose idle power is known."""
    return {d.uuid: GpuMemory(idle=IdleMemory({0: (idle_w,)})) for d in devices}


def divided(parts: int) -> GpuDevice:
    """Return a device with instances of one slice each."""
    return device(0, [MigInstance(f"MIG-{n}", n, 1, None, "1g") for n in range(parts)])


def test_idle_power_is_learned_while_nobody_is_there(rows: dict[str, Any]) -> None:
    """The level of a quiet window serves the next; with a process nothing is learned from it."""
    for row in rows["idle_cases"]:
        assert row["configured_idle_w"] == 0
        of, memory = device(), {}
        for told, expected in zip(row["readings"], row["expect"], strict=True):
            busy = told["process_count"]
            samples = [sample(of, START_NS + n * S // 2, 60 * busy) for n in range(-2, 7)]
            looks = [look(of, [process(1, 50, 1)] if busy else [])]
            found = split(
                [metered(of, [told["total_w"]] * 6)], series([of], looks, samples), memory
            )
            memory = dict(found.memory)

            is_proven_high = told["total_w"] < expected["idle_w"]
            idle_w = (told["total_w"] + expected["idle_w"]) / 2 if is_proven_high else None
            assert (found.shares[0].idle_w or 0) == pytest.approx(idle_w or expected["idle_w"])
            assert found.booked.dynamic_uj / 3e6 == pytest.approx(expected["active_w"])


def test_a_device_s_energy_is_split_by_its_idle_power(rows: dict[str, Any]) -> None:
    """Idle power times time, and the rest; a counter that went back gives neither."""
    for row in rows["device_energy_split_cases"]:
        energy_j = max(row["current_j"] - row["previous_j"], 0)
        window = Window(START_NS, START_NS + round(energy_j / row["total_w"] * S) + 1)
        of = device()
        one = metered(of, [row["total_w"]] if energy_j else [0.0], window)
        found = split([one], series([of]), known(row["idle_w"], of))

        assert found.booked.dynamic_uj / 1e6 == pytest.approx(
            row["expect_active_delta_j"], rel=1e-6
        )
        assert found.booked.idle_uj / 1e6 == pytest.approx(row["expect_idle_delta_j"], rel=1e-6)


def test_a_process_on_two_devices_has_the_sum(rows: dict[str, Any]) -> None:
    """Each device is split on its own, and the workload has both parts."""
    row = rows["same_pid_two_devices"]
    devices = [device(n) for n, _ in enumerate(row["devices"])]
    pid = row["devices"][0]["pid"]
    windows = [
        metered(d, [told["total_w"]]) for d, told in zip(devices, row["devices"], strict=True)
    ]
    looks = [look(d, [process(pid, 50, pid)]) for d in devices]
    found = split(windows, series(devices, looks), known(row["devices"][0]["idle_w"], *devices))

    assert watts(found) == pytest.approx({str(pid): row["expect_w"]})


def test_a_divided_device_is_split_by_instance(rows: dict[str, Any]) -> None:
    """Whatever the compute mode: a divided device by its parts, another by use."""
    for row in rows["mode_detection_cases"]:
        of = divided(2) if row["mig"] else device()
        told = [process(1, 10, 1, 0), process(2, 30, 2, 1)]
        found = split([metered(of, [100.0])], series([of], [look(of, told)]), known(40, of))
        even = {"1": 30.0, "2": 30.0}

        assert watts(found) == pytest.approx(
            even if row["mode"] == "partitioned" else {"1": 15.0, "2": 45.0}
        )


def processes_of(row: dict[str, Any]) -> list[GpuProcess]:
    """Return the processes of a row: running ones, and those that only left a sample."""
    if row["mig_instances"]:
        return [
            process(int(pid), sm, int(pid), number)
            for number, part in enumerate(row["mig_instances"])
            for pid, sm in part["process_util"].items()
        ]
    told = {one["pid"]: one["sm"] for one in row["process_util"] or ()}
    running = [process(pid, told.get(pid), pid) for pid in row["running_pids"]]
    return running + [process(pid, told[pid], 0) for pid in told if pid not in row["running_pids"]]


def test_energy_by_process(rows: dict[str, Any]) -> None:
    """Every row that another program is tested by, and the better answer where it has none."""
    for row in rows["cases"]:
        parts = row["mig_instances"]
        of = divided(len(parts)) if parts else device()
        activity = {n: part["activity"] for n, part in enumerate(parts or ())}
        looks = [look(of, processes_of(row), activity=activity)]
        found = split(
            [metered(of, [row["total_w"]])], series([of], looks), known(row["idle_w"], of)
        )
        expected = OURS.get(row["note"], row["expect_process_w"])

        assert watts(found) == pytest.approx({k: v for k, v in expected.items() if v}), row["note"]
        assert found.booked.dynamic_uj / 3e6 == pytest.approx(row["expect_active_w"]), row["note"]


def test_activity_by_instance(cases_dir: Path) -> None:
    """Activity of 0.75 and 0.25 on equal instances is three to one; of 0 it is nothing."""
    found = json.loads((cases_dir / "dcgm_metrics.json").read_text())
    assert set(found) == DCGM_PARTS

    for row in found["cases"]:
        for gpu in {name.split("/")[0] for name in row["expect"]}:
            mine = {n: v for n, v in row["expect"].items() if n.startswith(f"{gpu}/")}
            told = {index: part["activity"] for index, part in enumerate(mine.values())}
            total = sum(told.values())
            of = divided(len(told))
            looks = [look(of, [process(n + 1, None, n + 1, n) for n in told], activity=told)]
            energy = watts(split([metered(of, [100.0])], series([of], looks), known(40, of)))
            expected = {str(n + 1): 60 * part / total for n, part in told.items() if part}

            assert energy == pytest.approx(expected or {UNATTRIBUTED_ID: 60.0})
