"""GPU energy by device and leaf: idle and dynamic, by use, by instance, by allocation."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.sim.gpuwindow import (
    MIG,
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
    tenants_of,
    uuid,
)
from tychod.analysis.gpuidle import IdleMemory
from tychod.analysis.gpumemory import GpuMemory
from tychod.analysis.gpus import (
    LATE,
    NO_LEVEL,
    UNREAD_USERS,
    GpuWindow,
    Tenants,
    gpu_window,
)
from tychod.analysis.gpuseries import DeviceWindow
from tychod.analysis.gpushare import CHANGED, NOBODY, UNKNOWN_PROCESS, UNLOOKED
from tychod.analysis.state import Params
from tychod.model import SYSTEM_ID, UNATTRIBUTED_ID, Identity, Window
from tychod.samples import GpuProcess, GpuSeries, GpuUse

ONE, TWO, DIVIDED = device(0), device(1), device(0, MIG)
IDLE = IdleMemory({0: (40.0,)})
PLAIN = Params(cpus=4)
ALLOCATED = Params(cpus=4, gpu_idle="allocated")
A, B, C = leaf(10), leaf(20), leaf(30)
HOLDS = leaf(10, uuid(0))


def split(
    windows: Sequence[DeviceWindow],
    told: GpuSeries,
    identities: Mapping[int, Identity],
    *,
    live: Sequence[Identity] | None = None,
    idle: IdleMemory = IDLE,
    params: Params = PLAIN,
    window: Window = WINDOW,
) -> GpuWindow:
    """Split a window; whatever the case, nothing is lost and nothing is negative."""
    there = frozenset(i.id for i in (identities.values() if live is None else live))
    memory = {w.device.uuid: GpuMemory(idle=idle) for w in windows}
    found = gpu_window(windows, told, Tenants(identities, there), window, memory, params)
    assert_conserved(found, windows)
    return found


def assert_conserved(found: GpuWindow, windows: Sequence[DeviceWindow]) -> None:
    """Each device's parts, and the domain's, add up to what the meters counted."""
    for share, one in zip(found.shares, windows, strict=True):
        assert share.idle_uj + share.dynamic_uj == one.zone.energy_uj + one.zone.late_uj
        assert sum(share.by_leaf.values()) == share.dynamic_uj
        assert sum(share.idle_by_leaf.values()) == share.idle_uj
        assert sum(share.reasons.values()) == share.by_leaf.get(UNATTRIBUTED_ID, 0)
        assert min([0, *share.by_leaf.values(), *share.idle_by_leaf.values()]) >= 0
    booked = found.booked
    assert sum(booked.by_leaf.values()) == booked.dynamic_uj
    assert sum(booked.idle_by_leaf.values()) == booked.idle_uj
    assert sum(found.reasons.values()) == booked.by_leaf.get(UNATTRIBUTED_ID, 0)


def watts(found: GpuWindow) -> dict[str, float]:
    """Return the mean dynamic power of each leaf."""
    return {leaf_id: uj / 3e6 for leaf_id, uj in found.booked.by_leaf.items()}


def shared(looks: Sequence[GpuUse], *leaves: Identity, **more: Any) -> dict[str, float]:
    """Return the watts of leaves on one device of 100 W, 40 of them idle."""
    one = metered(ONE, [100.0] * 6)
    return watts(split([one], series([ONE], looks), tenants_of(*leaves), **more))


def test_dynamic_energy_goes_by_utilisation() -> None:
    """Three quarters of the use are three quarters of the energy above idle."""
    found = shared([look(ONE, [process(1, 60), process(2, 20)])], A, B)

    assert found == pytest.approx({A.id: 45.0, B.id: 15.0})


def test_energy_of_each_look_goes_to_who_used_it() -> None:
    """Who ran while the device drew more gets more, though both ran equally long."""
    one = metered(ONE, [540.0, 540.0, 540.0, 140.0, 140.0, 140.0])
    first, last = (START_NS, START_NS + 3 * S // 2), (START_NS + 3 * S // 2, START_NS + 3 * S)
    looks = [
        look(ONE, [process(1, 100)], Window(*first)),
        look(ONE, [process(2, 100)], Window(*last)),
    ]
    found = watts(split([one], series([ONE], looks), tenants_of(A, B)))

    assert found == pytest.approx({A.id: 250.0, B.id: 50.0})


def test_idle_energy_is_the_system_s() -> None:
    """By default no tenant pays for a device that is merely on."""
    found = split([metered(ONE, [100.0])], series([ONE]), {})

    assert found.booked.idle_by_leaf == {SYSTEM_ID: 120_000_000}
    assert found.shares[0].idle_w == 40.0


def test_without_a_level_all_is_dynamic() -> None:
    """Invariant 51: before any quiet moment idle is 0, and the device says so."""
    looks = [look(ONE, [process(1, 50)])]
    found = split([metered(ONE, [100.0])], series([ONE], looks), tenants_of(A), idle=IdleMemory())

    assert found.booked.by_leaf == {A.id: 300_000_000}
    assert found.shares[0].reason == NO_LEVEL
    assert "learning" in found.booked.flags


def test_a_quiet_device_is_learned_and_all_idle() -> None:
    """The first quiet window gives the level that the next one is split by."""
    quiet = [sample(ONE, START_NS + i * S // 2, sm=0) for i in range(-2, 7)]
    found = split(
        [metered(ONE, [60.0] * 6)], series([ONE], [look(ONE, [])], quiet), {}, idle=IdleMemory()
    )

    assert found.shares[0].idle_w == pytest.approx(60.0)
    assert found.booked.idle_uj == 180_000_000


@pytest.mark.parametrize("told", [None, 0.0])
def test_nobody_visible_and_assigned_to_nobody(told: float | None) -> None:
    """Energy without a user is unattributed, with the reason."""
    looks = [look(ONE, [process(1, told)] if told is not None else [])]
    found = split([metered(ONE, [100.0])], series([ONE], looks), tenants_of(A))

    assert watts(found) == pytest.approx({UNATTRIBUTED_ID: 60.0})
    assert found.reasons == {NOBODY: 180_000_000}


def test_use_that_is_not_told_is_shared_equally() -> None:
    """Where the driver tells no use, those on the device share alike, and it is called doubtful."""
    one, looks = metered(ONE, [100.0]), [look(ONE, [process(1, None), process(2, None)])]
    found = split([one], series([ONE], looks), tenants_of(A, B))
    sure = split(
        [one], series([ONE], [look(ONE, [process(1, 5), process(2, 5)])]), tenants_of(A, B)
    )

    assert watts(found) == pytest.approx({A.id: 30.0, B.id: 30.0})
    assert found.booked.doubts[A.id].window_var > 10 * sure.booked.doubts[A.id].window_var


def test_who_is_told_nothing_has_nothing_beside_who_is() -> None:
    """A desktop without a figure does not take from the process that computes."""
    assert shared([look(ONE, [process(1, None), process(2, 5)])], A, B) == pytest.approx(
        {B.id: 60.0}
    )


def test_a_process_that_is_listed_twice_counts_once() -> None:
    """One that computes and draws is in both lists of the driver."""
    looks = [look(ONE, [process(1, 30), process(1, 50), process(2, 50)])]

    assert shared(looks, A, B) == pytest.approx({A.id: 30.0, B.id: 30.0})


@pytest.mark.parametrize("odd", [float("nan"), -5.0, float("-inf")])
def test_odd_figures_count_as_nothing(odd: float) -> None:
    """A utilisation that is no number, or negative, gives nobody a part."""
    assert shared([look(ONE, [process(1, odd), process(2, 5)])], A, B) == pytest.approx(
        {B.id: 60.0}
    )


def test_utilisation_is_at_most_all() -> None:
    """A driver that tells 999 % means at most 100."""
    assert shared([look(ONE, [process(1, 999), process(2, 100)])], A, B) == pytest.approx(
        {A.id: 30.0, B.id: 30.0}
    )


def test_an_unknown_process_is_nobodys() -> None:
    """What a process used whose cgroup is not known is unattributed; others keep their part."""
    looks = [look(ONE, [process(1, 30), process(2, 30, key=0)])]
    found = split([metered(ONE, [100.0])], series([ONE], looks), tenants_of(A))

    assert watts(found) == pytest.approx({A.id: 30.0, UNATTRIBUTED_ID: 30.0})
    assert list(found.reasons) == [UNKNOWN_PROCESS]


@pytest.mark.parametrize("processes", [(), (process(9, 80, key=0),), (process(9, None, key=0),)])
def test_a_pod_whose_processes_are_not_visible_has_its_device(
    processes: tuple[GpuProcess, ...],
) -> None:
    """Containers in pid namespaces of their own: the device is known to be the pod's."""
    looks = [look(ONE, list(processes))]

    assert shared(looks, HOLDS) == pytest.approx({HOLDS.id: 60.0})


def test_an_unknown_process_beside_the_holder_s_own_is_not_his() -> None:
    """That his own processes are visible shows that this one is somebody else's."""
    looks = [look(ONE, [process(1, 30), process(9, 30, key=0)])]

    assert shared(looks, HOLDS) == pytest.approx({HOLDS.id: 30.0, UNATTRIBUTED_ID: 30.0})


def test_who_uses_a_device_pays_for_it_whoever_holds_it() -> None:
    """A pod with a device that another's process uses does not pay for that process."""
    assert shared([look(ONE, [process(2, 30)])], HOLDS, B) == pytest.approx({B.id: 60.0})


def test_hidden_holders_share_by_replicas() -> None:
    """Two of three replicas are two thirds where nothing else tells the holders apart."""
    two = leaf(10, f"{uuid(0)}::0", f"{uuid(0)}::1")

    assert shared([look(ONE, [])], two, leaf(20, f"{uuid(0)}::2")) == pytest.approx(
        {leaf(10).id: 40.0, leaf(20).id: 20.0}
    )


def test_a_device_that_changed_hands_is_nobodys() -> None:
    """The new pod does not pay for what the one before it used unseen."""
    new = leaf(20, uuid(0))
    idle = IdleMemory({0: (40.0,)}, allocated=(HOLDS.id,))
    found = split(
        [metered(ONE, [100.0])],
        series([ONE], [look(ONE, [])]),
        tenants_of(HOLDS, new),
        live=[new],
        idle=idle,
    )

    assert watts(found) == pytest.approx({UNATTRIBUTED_ID: 60.0})
    assert list(found.reasons) == [CHANGED]
    assert found.memory[uuid(0)].idle.allocated == (new.id,)


def test_a_pod_that_ended_in_the_window_has_its_last_energy() -> None:
    """It held the device alone, so what was used was its."""
    idle = IdleMemory({0: (40.0,)}, allocated=(HOLDS.id,))
    found = split(
        [metered(ONE, [100.0])],
        series([ONE], [look(ONE, [])]),
        tenants_of(HOLDS),
        live=[],
        idle=idle,
    )

    assert watts(found) == pytest.approx({HOLDS.id: 60.0})


def test_one_that_ended_long_ago_has_nothing() -> None:
    """An old container that is still known does not hold its device any more."""
    found = split(
        [metered(ONE, [100.0])], series([ONE], [look(ONE, [])]), tenants_of(HOLDS), live=[]
    )

    assert watts(found) == pytest.approx({UNATTRIBUTED_ID: 60.0})


def test_an_old_look_says_nothing() -> None:
    """Processes of ten seconds ago do not pay for what is used now."""
    old = look(ONE, [process(1, 50)], Window(START_NS - 12 * S, START_NS - 10 * S))
    found = split([metered(ONE, [100.0])], series([ONE], [old]), tenants_of(A))

    assert watts(found) == pytest.approx({UNATTRIBUTED_ID: 60.0})
    assert list(found.reasons) == [UNLOOKED]


def test_instances_share_by_slices_and_activity() -> None:
    """3 slices half busy and 2 slices wholly: three parts of seven."""
    looks = [
        look(
            DIVIDED,
            [process(1, None, instance=1), process(2, None, instance=2)],
            activity={1: 0.5, 2: 1.0},
        )
    ]
    found = watts(split([metered(DIVIDED, [110.0])], series([DIVIDED], looks), tenants_of(A, B)))

    assert found == pytest.approx({A.id: 30.0, B.id: 40.0})


def test_without_activity_an_instance_with_a_process_is_busy() -> None:
    """3 slices to 2; inside, those of which nothing is told share equally."""
    looks = [look(DIVIDED, [process(n, None, instance=i) for n, i in ((1, 1), (2, 2), (3, 2))])]
    found = watts(split([metered(DIVIDED, [90.0])], series([DIVIDED], looks), tenants_of(A, B, C)))

    assert found == pytest.approx({A.id: 30.0, B.id: 10.0, C.id: 10.0})


def test_an_instance_without_a_visible_process_is_its_pod_s() -> None:
    """Activity is told, its process is not: who holds the instance gets it, and no one else."""
    holder = leaf(20, MIG[1].uuid, resource="nvidia.com/mig-2g")
    looks = [look(DIVIDED, [process(1, None, instance=1)], activity={1: 1.0, 2: 1.0})]
    found = watts(
        split([metered(DIVIDED, [90.0])], series([DIVIDED], looks), tenants_of(A, holder))
    )

    assert found == pytest.approx({A.id: 30.0, holder.id: 20.0})


def test_hidden_holders_of_instances_share_by_slices() -> None:
    """Nothing is visible on a divided device: those it is assigned to, by size."""
    one, two = (leaf(10 * n, MIG[n - 1].uuid, resource="nvidia.com/mig-x") for n in (1, 2))
    found = watts(
        split(
            [metered(DIVIDED, [90.0])], series([DIVIDED], [look(DIVIDED, [])]), tenants_of(one, two)
        )
    )

    assert found == pytest.approx({one.id: 30.0, two.id: 20.0})


def test_idle_energy_by_allocation() -> None:
    """With `allocated` a whole device's idle energy is its holder's, one without stays system's."""
    holder = leaf(10, f"{uuid(0)}::0")
    found = split(
        [metered(ONE, [40.0]), metered(TWO, [40.0])],
        series([ONE, TWO]),
        tenants_of(holder),
        params=ALLOCATED,
    )

    assert found.booked.idle_by_leaf == {holder.id: 120_000_000, SYSTEM_ID: 120_000_000}
    assert found.shares[0].allocated == (holder.id,)


def test_idle_energy_of_slices_nobody_has_is_the_system_s() -> None:
    """3 of 7 slices are a tenant's, whoever else could have had the rest."""
    holder = leaf(10, MIG[0].uuid, resource="nvidia.com/mig-3g")
    found = split(
        [metered(DIVIDED, [35.0])], series([DIVIDED]), tenants_of(holder), params=ALLOCATED
    )

    assert found.booked.idle_by_leaf == {holder.id: 45_000_000, SYSTEM_ID: 60_000_000}


def test_an_ended_holder_has_no_idle_energy() -> None:
    """Completed pods reserve nothing."""
    found = split(
        [metered(ONE, [40.0])], series([ONE]), tenants_of(HOLDS), live=[], params=ALLOCATED
    )

    assert found.booked.idle_by_leaf == {SYSTEM_ID: 120_000_000}


def test_late_energy_whose_users_are_not_known_is_nobodys() -> None:
    """Ten seconds that could not be read, and nobody looked at the processes then."""
    one = metered(ONE, [100.0], late_uj=1_000_000_000, late_s=10.0)
    found = split([one], series([ONE], [look(ONE, [process(1, 50)])]), tenants_of(A))

    assert found.booked.by_leaf[A.id] == 180_000_000
    assert found.booked.lost_uj == found.booked.by_leaf[UNATTRIBUTED_ID] == found.reasons[LATE]
    assert found.booked.lost_uj == 600_000_000


def test_late_energy_whose_users_are_known_is_theirs() -> None:
    """A driver that answers late tells in its own time who used it meanwhile."""
    one = metered(ONE, [100.0], late_uj=100_000_000, late_s=1.0)
    wide = Window(START_NS - S, START_NS + 3 * S)
    found = split([one], series([ONE], [look(ONE, [process(1, 50)], wide)]), tenants_of(A))

    assert found.booked.by_leaf == {A.id: 240_000_000}


def test_a_gpu_of_which_only_power_is_known() -> None:
    """A card without processes told is whole in the sums, and nobody's."""
    other = metered(TWO, [50.0]).zone
    found = gpu_window([], None, Tenants({}, frozenset()), WINDOW, {}, PLAIN, [other])

    assert found.booked.by_leaf == {UNATTRIBUTED_ID: 150_000_000}
    assert found.reasons == {UNREAD_USERS: 150_000_000}
    assert found.shares == ()


def test_totals_and_memory_are_carried() -> None:
    """Cumulative energy of a device grows by its window; one that is gone keeps its own."""
    memory = {
        uuid(0): GpuMemory(idle=IdleMemory({0: (40.0,)}, idle_uj=5, dynamic_uj=7)),
        uuid(1): GpuMemory(idle=IdleMemory(idle_uj=3)),
    }
    found = gpu_window(
        [metered(ONE, [100.0])], series([ONE]), Tenants({}, frozenset()), WINDOW, memory, PLAIN
    )

    after = found.memory[uuid(0)].idle
    assert (after.idle_uj, after.dynamic_uj) == (120_000_005, 180_000_007)
    assert found.memory[uuid(1)] == memory[uuid(1)]


def test_the_leaf_s_doubt_has_the_device_s() -> None:
    """A device known to 30 J gives its only user no better figure."""
    looks = [look(ONE, [process(1, 50)])]
    found = split([metered(ONE, [100.0], sd_j=30.0)], series([ONE], looks), tenants_of(A))

    assert found.booked.doubts[A.id].window_var >= 900.0


def test_an_empty_window_books_nothing() -> None:
    """A device that used nothing, or whose driver is away, gives nobody anything."""
    found = split(
        [metered(ONE, [0.0])], series([ONE], [look(ONE, [process(1, 50)])]), tenants_of(A)
    )

    assert found.booked.by_leaf == {}
    assert found.booked.idle_by_leaf == {}


@pytest.mark.parametrize(
    ("sm", "looks", "leaves", "is_learned"),
    [
        (0, [], (), True),  # its own word is enough
        (0, [look(ONE, [process(1, None)])], (A,), True),
        (0, [look(ONE, [process(1, 3.0)])], (A,), False),
        (None, [look(ONE, [])], (A,), True),
        (None, [look(ONE, [process(1, 0.0)])], (A,), True),
        (None, [look(ONE, [process(1, None)])], (A,), False),
        (None, [look(ONE, [])], (HOLDS,), False),  # his processes may not be visible
        (None, [look(ONE, [], reason="no right to list them")], (A,), False),
        (None, [look(ONE, [], activity={1: 0.2})], (A,), False),
        (None, [], (A,), False),
        (7, [look(ONE, [])], (A,), False),
    ],
)
def test_what_counts_as_a_quiet_moment(
    sm: int | None, looks: list[GpuUse], leaves: tuple[Identity, ...], is_learned: bool
) -> None:
    """Nothing is learned from a moment in which somebody may have used the device unseen."""
    told = [sample(ONE, START_NS + i * S // 2, sm=sm) for i in range(-2, 7)]
    found = split(
        [metered(ONE, [60.0] * 6)],
        series([ONE], looks, told),
        tenants_of(*leaves),
        idle=IdleMemory(),
    )

    assert (found.shares[0].idle_w is not None) == is_learned


@pytest.mark.parametrize(
    ("activity", "is_learned"),
    [
        ({1: 0.0, 2: 0.0}, True),
        ({1: 0.0, 2: 0.001}, True),
        ({1: 0.0, 2: 0.2}, False),
        ({1: 0.0}, False),
    ],
)
def test_a_divided_device_is_quiet_by_its_own_word(
    activity: dict[int, float], is_learned: bool
) -> None:
    """Of such a device no use by process is told, and not everybody may list its processes."""
    holder = leaf(10, MIG[0].uuid, resource="nvidia.com/mig-3g")
    told = [sample(DIVIDED, START_NS + i * S // 2, sm=None, memory=None) for i in range(-2, 7)]
    looks = [look(DIVIDED, [], activity=activity, reason="no use by process is told")]
    found = split(
        [metered(DIVIDED, [60.0] * 6)],
        series([DIVIDED], looks, told),
        tenants_of(holder),
        idle=IdleMemory(),
    )

    assert (found.shares[0].idle_w is not None) == is_learned
