"""Sharing energy: exact and deterministic."""

from hypothesis import given
from hypothesis import strategies as st

from tychod.analysis.attribution import allocate

AMOUNTS = st.integers(0, 11 * 10**15)  # 30 days of 8 zones at 500 W
WEIGHTS = st.lists(
    st.one_of(st.just(0.0), st.floats(5e-324, 1e-300), st.floats(0.0, 1e16)),
    min_size=1,
    max_size=50,
)


@given(AMOUNTS, WEIGHTS)
def test_parts_add_up(amount_uj: int, shares: list[float]) -> None:
    """The parts are whole, never negative, add up to the amount, and unused shares get nothing."""
    parts = allocate(amount_uj, shares)

    assert sum(parts) == (amount_uj if any(shares) else 0)
    assert all(part >= 0 for part in parts)
    assert all(part == 0 for part, share in zip(parts, shares, strict=True) if not share)


@given(st.integers(0, 10**12), st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
def test_parts_are_proportional(amount_uj: int, shares: list[int]) -> None:
    """No part is off its exact share by a whole microjoule."""
    for part, share in zip(allocate(amount_uj, [float(s) for s in shares]), shares, strict=True):
        assert abs(part * sum(shares) - amount_uj * share) < 1.001 * sum(shares)


def test_thousands_of_equal_leaves_share_equally() -> None:
    """The remainder goes to the first ones, one microjoule each."""
    assert allocate(10_007, [0.1] * 5_000) == [3] * 7 + [2] * 4_993


def test_no_part_is_negative_where_floats_round_up() -> None:
    """2^53 + 3 is no float; the microjoule too many is taken from a part that has one."""
    assert allocate(2**53 + 3, [1.0, 1e-16]) == [2**53 + 3, 0]


def test_nothing_to_share_by() -> None:
    """Without weights all parts are zero: the caller keeps the energy."""
    assert allocate(10, [0.0, 0.0]) == [0, 0]
    assert allocate(10, []) == []
