"""Whatever a device and the one who reads it do, the lock asks at a bounded rate and goes on."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tychod.collectors.publishlock import PublishLock, Stamp

MS = 1_000_000
S = 1_000 * MS

looks = st.tuples(
    st.sampled_from(("new", "old", "old", "fails")),
    st.integers(0, 3 * S) | st.integers(0, 2 * MS),  # woken late
    st.integers(0, 3 * S) | st.integers(0, MS),  # the reading lasts
    st.sampled_from((0,) * 12 + (3600 * S, -3600 * S, -MS)),  # the clock jumps
)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.lists(looks, max_size=60),
    st.sampled_from((0.0, 1e-6, 0.02, 0.1, 2.0, 1e6)),
    st.sampled_from((None, 0.0, 0.01, 100.0)),
)
def test_lock_survives(
    story: list[tuple[str, int, int, int]], period_s: float, known_sd_s: float | None
) -> None:
    """Never due in the past, waits bounded both ways, every stamp finite and inside its bounds."""
    lock = PublishLock(period_s, known_sd_s=known_sd_s)
    now_ns, news = 5_000 * S, 0
    previous_ns = now_ns
    for what, late_ns, lasts_ns, jump_ns in story:
        due_ns = lock.due_ns(now_ns)
        assert now_ns <= due_ns <= now_ns + 7201 * S
        begin_ns = due_ns + late_ns + jump_ns
        now_ns = begin_ns + lasts_ns
        if what == "fails":
            lock.failed(now_ns)
        else:
            stamp = lock.saw(begin_ns, now_ns, what == "new")
            news += what == "new"
            check(stamp, previous_ns, now_ns)
            previous_ns = begin_ns
        assert lock.due_ns(now_ns) >= now_ns + MS or jump_ns < 0  # no busy loop
    assert lock.updates <= news
    assert lock.missed >= 0
    assert 0.001 <= lock.period_s <= 3600


def check(stamp: Stamp | None, previous_ns: int, now_ns: int) -> None:
    """A publish lies between the reading before it and the end of the one that found it."""
    if stamp is not None:
        assert previous_ns <= stamp.t_ns <= now_ns
        assert 1 <= stamp.sd_ns <= stamp.half_ns
        assert stamp.missed >= 0
