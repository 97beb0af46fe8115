"""What is saved of a learned model: enough to go on from, and nothing odd is taken for one."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest

from tests.unit.test_intensity import Node, bursts, taught, teach
from tychod.analysis.columns import prior
from tychod.analysis.learned import Learned
from tychod.analysis.summary import from_plain, to_plain

NODE = Node({"a": 4.0, "b": 8.0, "c": 6.0}, bursts(3))


@pytest.fixture(scope="module")
def learned() -> Learned:
    """A model of three workloads after ten windows."""
    return taught(NODE, 10)[0]


def through(learned: Learned) -> Learned:
    """Through the bytes of a state file."""
    return from_plain(msgpack.unpackb(msgpack.packb(to_plain(learned))))


def test_the_same_is_predicted_afterwards(learned: Learned) -> None:
    """Parameters are the same to the bit, and each one's own uncertainty is."""
    back = through(learned)

    assert back.beta.tolist() == learned.beta.tolist()
    assert np.diag(back.cov).tolist() == np.diag(learned.cov).tolist()
    assert {k: (c.windows, c.absent) for k, c in back.columns.items()} == {
        k: (c.windows, c.absent) for k, c in learned.columns.items()
    }
    assert list(back.columns) == list(learned.columns)
    for name in ("zones", "features", "windows", "tau", "updated_ns"):
        assert getattr(back, name) == getattr(learned, name)
    assert to_plain(back) == to_plain(learned)


def test_what_is_known_is_the_datas_part_and_the_priors(learned: Learned) -> None:
    """Solved again without new data, the kept model says what it said."""
    back = through(learned)
    centre, precision = prior(back)
    full = back.info + np.diag(precision)

    assert np.linalg.solve(full, back.vector + precision * centre) == pytest.approx(back.beta)
    assert np.linalg.inv(full) == pytest.approx(back.cov, abs=1e-9 * back.cov.max())


def test_a_restart_goes_on_with_what_was_known(learned: Learned) -> None:
    """The first window after it splits as if there had been none, within the deviations."""
    ((_, went_on, _, true),) = teach(NODE, 1, 7, learned, first=10)
    ((_, restarted, _, _),) = teach(NODE, 1, 7, through(learned), first=10)
    known = true.sum(axis=0)

    for k, _ in enumerate("abc"):
        one, two = (float(x.energy_j.sum(axis=0)[k]) for x in (went_on, restarted))
        sd = math.sqrt(went_on.window_var[k]) + math.sqrt(restarted.window_var[k])
        assert abs(one - two) <= 3 * sd
        assert abs(two - known[k]) <= 4 * math.sqrt(restarted.window_var[k])


def broken(plain: Any, at: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the plain model with each of its places spoilt in each way."""
    for odd in (None, "x", float("nan"), float("inf"), [], {}, [[]], b"\xff"):
        spoilt = copy.deepcopy(plain)
        place = spoilt
        for step in at[:-1]:
            place = place[step]
        if odd == place[at[-1]]:
            continue
        place[at[-1]] = odd
        yield f"{at}={odd!r}", spoilt


def places(plain: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where every value of nested plain data is, the first and last of long lists."""
    steps = plain if isinstance(plain, dict) else range(len(plain))
    for step in steps:
        if isinstance(step, int) and 1 < step < len(plain) - 1:
            continue
        yield (*at, step)
        if isinstance(plain[step], dict | list):
            yield from places(plain[step], (*at, step))


FREE = (
    ("zones", 0),
    *(("columns", k, 0) for k in range(3)),
    ("columns",),
    ("lowest_w",),
)
"""Where another text or an empty list may stand: that is no damage that can be told."""


def test_odd_data_is_an_error_and_nothing_else(learned: Learned) -> None:
    """Each place lost or spoilt: `ValueError`, or a model whose numbers are all finite."""
    plain = msgpack.unpackb(msgpack.packb(to_plain(learned)))
    taken = []
    for at in places(plain):
        for name, spoilt in broken(plain, at):
            try:
                found = from_plain(spoilt)
            except ValueError:
                continue
            assert np.isfinite(found.beta).all()
            assert np.isfinite(found.info).all()
            if at not in FREE:
                taken.append(name)

    assert taken == []


@pytest.mark.parametrize("name", sorted(to_plain(Learned())))
def test_every_part_is_needed(learned: Learned, name: str) -> None:
    """A model that lacks a part is none."""
    plain = to_plain(learned)
    del plain[name]

    with pytest.raises(ValueError, match=r"."):
        from_plain(plain)


def test_a_covariance_that_is_none_is_refused(learned: Learned) -> None:
    """Negative variances, a column that is there twice, and another version."""
    for name, value in (("version", 99), ("columns", to_plain(learned)["columns"][:1] * 2)):
        with pytest.raises(ValueError, match=r"version|two columns"):
            from_plain({**to_plain(learned), name: value})
    plain = to_plain(learned)
    plain["cov"] = [-x for x in plain["cov"]]
    with pytest.raises(ValueError, match="covariance"):
        from_plain(plain)
