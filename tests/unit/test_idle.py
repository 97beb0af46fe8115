"""The idle floor: learned from what was seen, never a guess."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod.analysis.idle import floor_w, observe
from tychod.analysis.state import IdlePoint


def learn(points: list[tuple[float, float]], seconds: float = 3.0) -> IdlePoint:
    """Show windows of (busy share, watts)."""
    point = IdlePoint()
    for busy, watts in points:
        point = observe(point, busy, watts, seconds)
    return point


def test_nothing_is_idle_before_enough_was_seen() -> None:
    """Under 15 s the floor is unknown: 0 W."""
    assert floor_w(IdlePoint()) == 0.0
    assert floor_w(learn([(0.0, 40.0)] * 4)) == 0.0


def test_line_through_different_loads_gives_the_floor() -> None:
    """P = 40 W + 100 W x busy is found from a sweep, within 5 %."""
    sweep = [(k % 10 / 10, 40.0 + 100.0 * (k % 10) / 10) for k in range(200)]

    assert floor_w(learn(sweep)) == pytest.approx(40.0, rel=0.05)


def test_quiet_node_draws_its_floor() -> None:
    """With no load at all the lowest power is the floor."""
    assert floor_w(learn([(0.01, 40.0 + k % 3) for k in range(50)])) == pytest.approx(
        40.0, rel=0.01
    )


def test_always_busy_node_has_no_floor() -> None:
    """One load level tells nothing of idle power."""
    assert floor_w(learn([(0.9, 130.0)] * 200)) == 0.0


def test_floor_recovers_after_a_lasting_rise() -> None:
    """After an hour at a higher quiet power the floor has followed (no freeze)."""
    point = learn([(0.005, 40.0)] * 200)
    for _ in range(1200):
        point = observe(point, 0.005, 60.0, 3.0)

    assert floor_w(point) == pytest.approx(60.0, rel=0.05)


def test_falling_power_with_load_gives_no_negative_slope() -> None:
    """The floor is never above the lowest power seen lately."""
    point = learn([(k % 10 / 10, 100.0 - 5 * (k % 10)) for k in range(100)])

    assert 0.0 <= floor_w(point) <= point.lowest_w + 1e-9


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 5000), st.floats(1e-3, 1e8)),
        min_size=1,
        max_size=40,
    )
)
def test_floor_is_always_believable(windows: list[tuple[float, float, float]]) -> None:
    """Whatever is seen, of whatever length: finite, not negative, not above the lowest power."""
    point = IdlePoint()
    for busy, watts, seconds in windows:
        point = observe(point, busy, watts, seconds)
        assert all(math.isfinite(x) for x in point)
        assert 0.0 <= floor_w(point) <= max(point.lowest_w, 0.0) + 1e-9
