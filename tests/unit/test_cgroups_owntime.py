"""Own time out of totals: nothing lost, nothing negative, nothing counted twice."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tychod.kernel.owntime import KERNEL, OUTSIDE, ROOT, SEED, OwnTime
from tychod.samples import KERNEL_KEY, OUTSIDE_KEY, ROOT_KEY


def totals(*values: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return the rows root, outside, kernel, then cgroups."""
    return np.array(values, dtype=np.int64)


def advance(own: OwnTime, *values: int, root_is_kernel: bool = False) -> list[int]:
    """Advance by totals and return the published own times."""
    own.advance(totals(*values), root_is_kernel=root_is_kernel, root_restarts=True)
    return [int(v) for v in own.own_ns]


def started(*starts: tuple[int, int, int], see_outside: bool = False) -> OwnTime:
    """Return a tree of (key, parent key, start) after a first reading of zeros at the root."""
    own = OwnTime(see_outside=see_outside)
    own.last_ns = totals(0, 0, 0)
    own.reshape([k for k, _, _ in starts], [p for _, p, _ in starts], {k: s for k, _, s in starts})
    return own


def test_first_reading_is_the_start() -> None:
    """What cgroups used before the daemon started belongs to nobody."""
    own = OwnTime(see_outside=False)
    own.reshape([0, 1], [ROOT_KEY, 0], {0: SEED, 1: SEED})

    assert advance(own, 900, 900, 5, 500, 300) == [0, 0, 0, 0, 0]
    assert advance(own, 960, 960, 7, 550, 320) == [10, 0, 2, 30, 20]


def test_new_cgroup_counts_in_full() -> None:
    """A cgroup made since the last reading owns all it used."""
    own = started((0, ROOT_KEY, 0))
    advance(own, 100, 100, 0, 100)
    own.reshape([0, 1], [ROOT_KEY, 0], {1: 0})

    assert advance(own, 150, 150, 0, 150, 40) == [0, 0, 0, 110, 40]


def test_late_found_cgroup_starts_at_its_first_reading() -> None:
    """What a cgroup used before it could be found was its parent's and is not counted again."""
    own = started((0, ROOT_KEY, 0))
    advance(own, 100, 100, 0, 100)
    own.reshape([0, 1], [ROOT_KEY, 0], {1: SEED})

    assert advance(own, 150, 150, 0, 150, 80) == [0, 0, 0, 150, 0]
    assert advance(own, 160, 160, 0, 160, 85) == [0, 0, 0, 155, 5]


def test_what_a_cgroup_used_after_its_last_reading_is_its_parents() -> None:
    """A removed cgroup's last moments are neither lost nor another's."""
    own = started((0, ROOT_KEY, 0), (1, 0, 0))
    advance(own, 100, 100, 0, 100, 60)
    own.reshape([0], [ROOT_KEY], {})

    assert advance(own, 130, 130, 0, 130) == [0, 0, 0, 70]


def test_negative_difference_is_carried() -> None:
    """A child read after its parent's counter moved leaves a debt that later time pays."""
    own = started((0, ROOT_KEY, 0), (1, 0, 0))

    assert advance(own, 100, 100, 0, 100, 110) == [0, 0, 0, 0, 110]
    assert advance(own, 115, 115, 0, 115, 120) == [0, 0, 0, 0, 120]
    assert advance(own, 140, 140, 0, 140, 121) == [0, 0, 0, 19, 121]


def test_debt_of_a_removed_cgroup_is_its_parents() -> None:
    """A debt does not vanish with the cgroup that had it."""
    own = started((0, ROOT_KEY, 0), (1, 0, 0), (2, 1, 0))
    advance(own, 100, 100, 0, 100, 100, 130)
    own.reshape([0], [ROOT_KEY], {})

    assert advance(own, 150, 150, 0, 150) == [0, 0, 0, 20]


def test_counter_set_back_counts_from_zero() -> None:
    """A v1 counter that someone wrote 0 to gives what it shows since, nothing huge."""
    own = started((0, ROOT_KEY, 0))
    advance(own, 1000, 1000, 0, 1000)

    assert advance(own, 1020, 1020, 0, 15) == [5, 0, 0, 1015]


def test_root_time_of_kernel_threads() -> None:
    """The root's own time is the kernel's where only kernel threads sit in it."""
    own = started((0, ROOT_KEY, 0))

    assert advance(own, 100, 100, 7, 80, root_is_kernel=True) == [0, 0, 27, 80]


def test_time_outside_the_visible_tree() -> None:
    """In a container the machine's other tasks are outside; tick noise never takes time back."""
    own = started((0, ROOT_KEY, 0), see_outside=True)

    assert advance(own, 100, 350, 7, 80) == [20, 250, 7, 80]
    assert advance(own, 130, 360, 7, 110) == [20, 250, 7, 110]
    assert advance(own, 130, 400, 7, 110) == [20, 270, 7, 110]


def test_ticks_that_step_back_are_noise() -> None:
    """Interrupt time and the machine's tasks come in ticks that may be corrected: no restart."""
    own = started((0, ROOT_KEY, 0), see_outside=True)
    before = advance(own, 100, 350, 70, 80)

    assert advance(own, 100, 340, 60, 80) == before
    assert advance(own, 100, 360, 75, 80) == [20, 260, 75, 80]


def test_root_of_ticks_never_restarts() -> None:
    """Where /proc/stat is the root's total, a step back is carried, too."""
    own = started((0, ROOT_KEY, 0))
    own.advance(totals(100, 100, 0, 80), root_is_kernel=False, root_restarts=False)
    own.advance(totals(90, 90, 0, 80), root_is_kernel=False, root_restarts=False)
    own.advance(totals(115, 115, 0, 80), root_is_kernel=False, root_restarts=False)

    assert own.own_ns.tolist() == [35, 0, 0, 80]


def test_reserved_keys_come_first() -> None:
    """The rows that are no cgroups have fixed places and the keys are sorted."""
    own = started((0, ROOT_KEY, 0), (5, 0, 0))

    assert own.keys.tolist() == [ROOT_KEY, OUTSIDE_KEY, KERNEL_KEY, 0, 5]
    assert (ROOT, OUTSIDE, KERNEL) == (0, 1, 2)
    assert not own.keys.flags.writeable
    assert not own.own_ns.flags.writeable


@dataclass
class PlainModel:
    """The same arithmetic on a dict, one cgroup at a time."""

    parents: dict[int, int] = field(default_factory=dict)
    totals: dict[int, int] = field(default_factory=lambda: {ROOT_KEY: 0})
    last: dict[int, int] = field(default_factory=lambda: {ROOT_KEY: 0})
    debts: dict[int, int] = field(default_factory=lambda: {ROOT_KEY: 0})
    owns: dict[int, int] = field(default_factory=lambda: {ROOT_KEY: 0})
    gone_ns: int = 0

    def create(self, key: int, parent: int) -> None:
        """Add a cgroup that has used nothing."""
        self.parents[key] = parent
        self.totals[key] = self.last[key] = self.debts[key] = self.owns[key] = 0

    def use(self, key: int, used_ns: int) -> None:
        """Use time in a cgroup: it counts in all above it."""
        self.totals[key] += used_ns
        if key != ROOT_KEY:
            self.use(self.parents[key], used_ns)

    def remove(self, key: int) -> None:
        """Remove a cgroup without children."""
        self.gone_ns += self.owns.pop(key)
        self.debts[self.parents.pop(key)] += self.debts.pop(key)
        del self.totals[key], self.last[key]

    def read(self, seen: dict[int, int]) -> None:
        """Take in what a reading saw."""
        grown = {key: seen[key] - self.last[key] for key in self.totals}
        for key in self.totals:
            below = sum(g for k, g in grown.items() if self.parents.get(k) == key)
            net = grown[key] - below + self.debts[key]
            self.owns[key] += max(net, 0)
            self.debts[key] = min(net, 0)
        self.last = {key: seen[key] for key in self.totals}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "remove", "use", "read"]),
        st.integers(0, 1 << 16),
        st.integers(0, 5_000_000),
    ),
    max_size=60,
)


def read_both(model: PlainModel, own: OwnTime, seen: dict[int, int], known: set[int]) -> None:
    """Take one reading into the arrays and into the model, and compare."""
    live = sorted(model.parents)
    before = dict(zip(own.keys.tolist(), own.own_ns.tolist(), strict=True))
    own.reshape(live, [model.parents[k] for k in live], {k: 0 for k in live if k not in known})
    known.update(live)
    own.advance(
        totals(seen[ROOT_KEY], seen[ROOT_KEY], 0, *(seen[k] for k in live)),
        root_is_kernel=False,
        root_restarts=True,
    )
    model.read(seen)
    after = dict(zip(own.keys.tolist(), own.own_ns.tolist(), strict=True))
    assert {k: v for k, v in after.items() if k in model.owns} == model.owns
    assert all(after[k] >= v for k, v in before.items() if k in after)
    assert sum(after.values()) + model.gone_ns + int(own.debt_ns.sum()) == seen[ROOT_KEY]


@given(STEPS, st.booleans())
def test_any_history_adds_up(steps: list[tuple[str, int, int]], skewed: bool) -> None:
    """Whatever happens between readings: sum of own times + debts = growth of the root, and no
    published time ever falls, also when counters move while they are read.
    """
    model, own = PlainModel(), OwnTime(see_outside=False)
    own.last_ns = totals(0, 0, 0)
    next_key = 0
    known: set[int] = set()
    for action, choice, amount in [*steps, ("read", 0, 0)]:
        keys = sorted(model.totals)
        chosen = keys[choice % len(keys)]
        if action == "create":
            model.create(next_key, chosen)
            next_key += 1
        elif action == "remove" and chosen != ROOT_KEY and chosen not in model.parents.values():
            model.remove(chosen)
        elif action == "use":
            model.use(chosen, amount)
        elif action == "read":
            seen = {}
            for key in sorted(model.totals, reverse=True):
                seen[key] = model.totals[key]
                if skewed:
                    model.use(chosen, amount)
            read_both(model, own, seen, known)
            assert skewed or not own.debt_ns.any()
