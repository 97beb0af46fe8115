"""GPUs and the platform in whole windows: booked, shown, and exact beside everything else."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from tests.sim.gpuwindow import device, look, process
from tests.sim.world import MS, Load, Meter, World, container, zone
from tychod.analysis.pipeline import analyse
from tychod.analysis.state import Observations, Params, State
from tychod.model import Snapshot, Window
from tychod.runtime.saved import pack, parse, unpack
from tychod.samples import (
    EnergySample,
    EnergySeries,
    GpuSample,
    GpuSeries,
    GpuUse,
    PowerSensor,
)

S = 1_000 * MS
PARAMS = Params(cpus=4)
A, B = container(1, 1), container(2, 2)
NODE = World(
    (Load(1, A, 0.5), Load(2, B, 0.5)),
    {"rapl": (Meter(zone("package-0"), 20.0, 30.0, 7),)},
    tuple(range(0, 60 * S, 50 * MS)),
    tuple(range(0, 60 * S, 500 * MS)),
)
GPU = device(0)
SENSOR = PowerSensor("redfish:1", "platform", "1", None, 5000.0)


def updates(until_s: int, watts: int = 200) -> list[GpuSample]:
    """A true counter that is published every 100 ms."""
    return [
        GpuSample(t, GPU.uuid, t, 0, 5 + watts * t // 1000, watts * 1_000_000, None, 0, 80, 10)
        for t in range(0, until_s * S, 100 * MS)
    ]


def seen(window: Window, *, gpus: GpuSeries | None, platform: EnergySeries | None) -> Observations:
    """What is seen of a window."""
    found = NODE.observe(window)
    more = (platform,) if platform else ()
    return replace(found, energy=(*found.energy, *more), gpus=gpus)


def gpu_series(samples: Sequence[GpuSample], uses: Sequence[GpuUse] = ()) -> GpuSeries:
    """One device."""
    return GpuSeries("nvml", (GPU,), tuple(samples), tuple(uses), {GPU.uuid: "says nothing"})


def bmc(until_s: int, watts: int = 400) -> EnergySeries:
    """A BMC that says the same number every second."""
    samples = tuple(
        EnergySample(t, (), (watts * 1_000_000,), 100 * MS) for t in range(0, until_s * S, S)
    )
    return EnergySeries("redfish", "measured", (), samples, {}, 0, (SENSOR,), S)


def windows(until_s: int, state: State | None = None) -> list[tuple[Snapshot, State]]:
    """Windows of three seconds."""
    found, now = [], state or State()
    for start, end in pairwise(range(0, until_s + 1, 3)):
        window = Window(start * S, end * S)
        uses = [look(GPU, [process(1, 60.0, 1), process(2, 20.0, 2)], window)]
        told = seen(window, gpus=gpu_series(updates(until_s + 1), uses), platform=bmc(until_s + 1))
        snapshot, now = analyse(told, window, now, PARAMS)
        found.append((snapshot, now))
    return found


def test_the_leaves_have_the_gpu_to_the_microjoule() -> None:
    """Domain, device and leaves agree; three quarters of it are of who used three quarters."""
    last, _ = windows(30)[-1]
    domain, (gpu,) = last.domains["gpu"], last.gpus
    parts = [leaf.energy["gpu"] for leaf in last.leaves]
    by_id = {leaf.identity.id: leaf.energy["gpu"].dynamic_uj for leaf in last.leaves}

    assert domain.energy_uj == 200 * 30_000_000
    assert sum(e.idle_uj for e in parts) == domain.idle_uj == gpu.energy.idle_uj
    assert sum(e.dynamic_uj for e in parts) == domain.dynamic_uj == gpu.energy.dynamic_uj
    assert abs(by_id[A.id] - 3 * by_id[B.id]) <= 3 * len(last.leaves)
    assert last.conservation_violations == 0


def test_platform_and_residual_stand_beside_the_parts() -> None:
    """They are facts of the node: no leaf has them, and the residual's ledger closes."""
    last, _ = windows(30)[-1]
    residual = last.residual

    assert last.domains["platform"].idle_uj is None
    assert all("platform" not in leaf.energy for leaf in last.leaves)
    assert residual is not None
    assert residual.platform_uj - residual.parts_uj == residual.energy_uj
    assert residual.idle_uj + residual.dynamic_uj == residual.energy_uj
    assert last.fit is not None


def test_a_gpu_that_says_nothing_is_listed_without_a_number() -> None:
    """Absence is said: not 0 W, and the reason beside it."""
    window = Window(0, 3 * S)
    snapshot, _ = analyse(seen(window, gpus=gpu_series([]), platform=None), window, State(), PARAMS)

    (gpu,) = snapshot.gpus
    assert (gpu.quality, gpu.reason, gpu.power_w) == ("unavailable", "says nothing", None)


def test_a_restart_goes_on_with_every_counter() -> None:
    """What the state file holds is enough for GPUs and platform: nothing falls, nothing doubles."""
    steps = windows(30)
    before, state = steps[5]
    saved = parse(unpack(pack("boot", state, None))).state
    window = Window(18 * S, 21 * S)
    told = seen(window, gpus=gpu_series(updates(25)), platform=bmc(25))
    after, _ = analyse(told, window, saved, PARAMS)

    assert after.domains["gpu"].energy_uj == 200 * 21_000_000
    assert after.gpus[0].energy.total_uj == 200 * 21_000_000
    assert after.domains["platform"].energy_uj >= before.domains["platform"].energy_uj
    assert after.residual is not None
    assert before.residual is not None
    assert after.residual.platform_uj >= before.residual.platform_uj
