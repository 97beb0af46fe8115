"""What a GPU's readings mean and which can be true, without a driver."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod.collectors.nvml_fields import (
    MAX_POWER_W,
    NS,
    Plausible,
    field_value,
    max_power_w,
    power_rule,
)
from tychod.collectors.nvml_library import TEXT_MOST, bounded
from tychod.collectors.nvml_mig import parse_profile
from tychod.collectors.nvml_processes import Listed, Used, mean_use, merge_lists

ALL_ONES = 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("architecture", "pci_device", "is_average", "sensor_s"),
    [
        (None, 0, False, 0.0),
        (ALL_ONES, 0, False, 0.0),
        (5, 0x1DB4, False, 0.0),  # V100
        (6, 0x1EB8, False, 0.0),  # T4
        (7, 0x20B0, False, 0.025),  # A100: GA100, the exception among Ampere
        (7, 0x20B7, False, 0.025),  # A30
        (7, 0x2236, True, 0.0),  # A10
        (8, 0x26B9, True, 0.0),  # L40S
        (9, 0x2330, True, 0.025),  # H100
        (10, 0x2901, True, 0.0),  # B200
    ],
)
def test_averaged_since_ampere_but_not_on_ga100(
    architecture: int | None, pci_device: int, is_average: bool, sensor_s: float
) -> None:
    """nvml.h: nvmlDeviceGetPowerUsage is a mean over 1 s on Ampere (not GA100) and newer."""
    assert power_rule(architecture, pci_device) == (is_average, sensor_s)


def test_no_load_exceeds_twice_the_greatest_limit() -> None:
    """The limit that may be set is the measure; where none is told, what no card draws."""
    assert max_power_w([100_000, 700_000]) == 1400.0
    assert max_power_w(None) == MAX_POWER_W
    assert max_power_w([0, 0]) == MAX_POWER_W
    assert max_power_w([0, ALL_ONES]) == MAX_POWER_W


@pytest.mark.parametrize("value", [ALL_ONES, -1, 700_001, math.inf, math.nan])
def test_a_power_that_cannot_be_is_none_and_counted(value: float) -> None:
    """All ones, less than nothing, more than any load: no value."""
    plausible = Plausible(700.0)

    assert plausible.power_uw(value, "momentary power") is None
    assert plausible.rejected == 1
    assert plausible.kinds == {"momentary power"}
    assert plausible.power_uw(700_000, "momentary power") == 700_000_000


def test_a_leap_of_the_counter_is_believed_only_if_it_stays() -> None:
    """One wild reading is rejected; a counter that goes on from there did leap."""
    plausible = Plausible(700.0)
    readings = [10_000, 10_050, 99_000_000, 10_150, 99_000_000, 99_000_050, 99_000_100]
    found = [plausible.energy_mj(mj, i * NS // 10) for i, mj in enumerate(readings)]

    assert found == [10_000, 10_050, None, 10_150, None, 99_000_050, 99_000_100]
    assert plausible.rejected == 2


def test_a_counter_that_begins_anew_is_believed() -> None:
    """A driver that was reset counts from zero: what that means is for the analysis to say."""
    plausible = Plausible(700.0)

    assert [plausible.energy_mj(mj, NS) for mj in (5_000_000, 12, 40)] == [5_000_000, 12, 40]
    assert plausible.energy_mj((1 << 64) - 1, NS) is None


@given(st.lists(st.integers(0, 1400), min_size=1, max_size=50))
def test_what_a_real_load_draws_is_never_rejected(watts: list[int]) -> None:
    """Whatever a GPU draws below its maximum, every reading of its counter passes."""
    plausible = Plausible(1400.0)
    total_mj = 0
    for i, power_w in enumerate(watts):
        total_mj += power_w * 100  # in a tenth of a second
        assert plausible.energy_mj(total_mj, i * NS // 10) == total_mj


@pytest.mark.parametrize(("kind", "name"), [(0, "dVal"), (1, "uiVal"), (3, "ullVal"), (5, "siVal")])
def test_a_field_is_read_by_its_type(kind: int, name: str) -> None:
    """nvmlValueType_t names the member of the union that holds the value."""
    field = SimpleNamespace(valueType=kind, value=SimpleNamespace(**{name: 42}))

    assert field_value(field) == 42
    assert field_value(SimpleNamespace(valueType=77, value=None)) is None


@given(st.one_of(st.text(max_size=300), st.binary(max_size=300), st.none(), st.integers()))
def test_a_text_of_the_driver_is_bounded_and_visible(raw: object) -> None:
    """Whatever the driver gives: no control character, and no more than NVML's longest text."""
    text = bounded(raw)

    assert len(text) <= TEXT_MOST
    assert text.isprintable()


def test_the_profile_is_in_the_instances_name() -> None:
    """The name of an instance ends with what it is cut to."""
    assert parse_profile("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me") == "1g.10gb+me"
    assert parse_profile("NVIDIA H100 80GB HBM3") == ""


def row(pid: int, sm: int, t_us: int = 100) -> SimpleNamespace:
    """Return a sample of a process's use as pynvml gives it."""
    return SimpleNamespace(pid=pid, timeStamp=t_us, smUtil=sm, memUtil=1, encUtil=0, decUtil=0)


def test_use_is_the_mean_of_what_is_new_and_possible() -> None:
    """Old samples, entries that nobody filled and percentages over 100 are no use of anybody."""
    samples = [row(1, 40), row(1, 60), row(2, 30, t_us=5), row(0, 10), row(3, 4_000_000), row(4, 7)]

    assert mean_use(samples, since_us=50) == {1: Used(50, 1, 0, 0), 4: Used(7, 1, 0, 0)}


def test_a_process_in_two_lists_is_one() -> None:
    """One that computes and draws keeps the memory and the instance that either list tells."""
    lists = [
        SimpleNamespace(pid=1, usedGpuMemory=None, gpuInstanceId=3),
        SimpleNamespace(pid=1, usedGpuMemory=77, gpuInstanceId=ALL_ONES),
        SimpleNamespace(pid=0, usedGpuMemory=1, gpuInstanceId=ALL_ONES),
    ]

    assert merge_lists(lists) == {1: Listed(77, 3)}
