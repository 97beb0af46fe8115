"""A device's publishing is followed, and found again whatever happened to it."""

from random import Random
from typing import Final

import pytest

from tests.accuracy.publish import BEGIN_NS, NS, Reader, follow, publish_times
from tychod.collectors.publishlock import PublishLock

MS: Final = 1_000_000
PROMPT: Final = Reader(hiccups=0.0)
STALLED: Final = Reader(hiccup_s=(0.01, 0.15), hiccups=0.2)


def idle(lock: PublishLock, now_ns: int, until_ns: int, *, fails: bool = False) -> int:
    """Read at every due time and find nothing new; return how many readings that took."""
    readings = 0
    while (due_ns := lock.due_ns(now_ns)) < until_ns:
        assert due_ns >= now_ns
        now_ns = due_ns + MS // 10
        readings += 1
        if fails:
            lock.failed(now_ns)
        else:
            lock.saw(due_ns, now_ns, False)
        assert readings < 100_000, "a busy loop"
    return readings


def after(times: list[int], more: list[int], gap_ns: int) -> list[int]:
    """One publisher's times and then those of another, with a gap between."""
    return times + [times[-1] + gap_ns + t - BEGIN_NS for t in more]


@pytest.mark.parametrize("period_s", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("grid", [False, True])
def test_period_and_phase_are_known_after_fifty_publishes(period_s: float, grid: bool) -> None:
    """Invariant 21: period within 10 % and phase within a tenth of it, at 5 % of jitter."""
    random = Random(f"{period_s} {grid}")
    times = publish_times(random, period_s, 51, grid=grid)

    run = follow(PublishLock(0.1), times, random, PROMPT)

    assert run.lock.is_locked
    assert run.lock.period_s == pytest.approx(period_s, rel=0.1)
    late = sorted(abs(error) for error in run.errors_ns[-10:])
    assert late[5] < period_s * NS / 10


def test_silence_is_left_and_found_again() -> None:
    """Invariant 21: after a gap the lock is back on the first publish; none counts as missed."""
    random = Random(1)
    times = publish_times(random, 0.1, 300, grid=False)
    times = after(times, publish_times(random, 0.1, 100, grid=False), 3 * NS)

    run = follow(PublishLock(0.1), times, random, PROMPT)

    assert run.lock.is_locked
    assert len(run.seen) >= run.published - 2
    assert run.lock.missed <= 2
    assert run.lock.period_s == pytest.approx(0.1, rel=0.05)


def test_frozen_value_gives_no_record() -> None:
    """Invariant 20: while a device's value is frozen there is no record."""
    lock = PublishLock(0.1)
    lock.saw(BEGIN_NS, BEGIN_NS + MS, True)

    idle(lock, BEGIN_NS + MS, BEGIN_NS + 60 * NS)

    assert lock.updates == 0


def test_none_is_given_twice_and_none_invented() -> None:
    """Invariant 20: no more records than publishes, no publish twice, stamps in their order."""
    random = Random(7)
    times = publish_times(random, 0.1, 500, grid=False)

    run = follow(PublishLock(0.1), times, random, Reader(hiccups=0.05))

    assert len(run.seen) == len(set(run.seen)) == run.lock.updates <= run.published
    assert list(run.seen) == sorted(run.seen)


def test_missed_are_those_between_two_readings() -> None:
    """Values published while nobody could read are counted, to the floor."""
    random = Random(2)
    times = publish_times(random, 0.1, 200, grid=False)
    lock = PublishLock(0.1)
    follow(lock, times, random, PROMPT)
    before = lock.missed

    late_ns = times[-1] + 1_030 * MS  # ten periods later and a bit
    lock.saw(late_ns, late_ns + MS, True)

    assert 9 <= lock.missed - before <= 11


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("period_s", [0.02, 2.0])
def test_publisher_stopped_for_an_hour_costs_little(period_s: float, fails: bool) -> None:
    """A stopped publisher, or one that cannot be read, is asked about once a second and found."""
    random = Random(3)
    times = publish_times(random, period_s, 100, grid=False)
    lock = PublishLock(period_s)
    follow(lock, times, random, PROMPT)

    readings = idle(lock, times[-1] + MS, times[-1] + 3600 * NS, fails=fails)

    assert readings < 3600 * 1.1 + 100
    again = after(times, publish_times(random, period_s, 100, grid=False), 3600 * NS)[100:]
    now_ns, newest, found = times[-1] + 3600 * NS, -1, 0
    while now_ns < again[-1]:
        now_ns = lock.due_ns(now_ns)
        index = sum(t <= now_ns for t in again) - 1
        found += lock.saw(now_ns, now_ns, index > newest) is not None
        newest = index
    assert found > 85 - 1 / period_s  # a publish is waited for a second at most
    assert lock.period_s == pytest.approx(period_s, rel=0.1)


@pytest.mark.parametrize("start_s", [0.005, 0.025, 0.4, 2.0])
@pytest.mark.parametrize("known_sd_s", [None, 0.001])
def test_wrong_start_is_corrected(start_s: float, known_sd_s: float | None) -> None:
    """A period that is wrong fourfold or more, even one that was calibrated, is found."""
    random = Random(f"{start_s}")
    times = publish_times(random, 0.1, 500, grid=False)

    run = follow(PublishLock(start_s, known_sd_s=known_sd_s), times, random, PROMPT)

    assert run.lock.period_s == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("second_s", [0.02, 0.05, 0.07, 0.2, 0.45])
def test_changed_period_is_followed(second_s: float) -> None:
    """A period that becomes shorter or longer, a multiple or not, is found."""
    random = Random(f"{second_s}")
    times = publish_times(random, 0.1, 200, grid=False)
    times = after(times, publish_times(random, second_s, 800, grid=False), 50 * MS)

    run = follow(PublishLock(0.1), times, random, PROMPT)

    assert run.lock.period_s == pytest.approx(second_s, rel=0.05)


def test_known_period_needs_no_search() -> None:
    """With a calibrated period the first publish that is seen locks."""
    random = Random(5)
    times = publish_times(random, 0.1, 4, grid=False)

    run = follow(PublishLock(0.1, known_sd_s=0.002), times, random, PROMPT)

    assert run.lock.is_locked
    assert run.lock.period_sd_s == pytest.approx(0.002, rel=0.5)


def test_calibration_may_come_later() -> None:
    """A calibrated period is taken by a lock that still searches, and by no other."""
    random = Random(5)
    times = publish_times(random, 0.1, 60, grid=False)
    lock = PublishLock(2.0)

    lock.know(0.1, 0.002)
    assert lock.period_s == 0.1
    follow(lock, times[:4], random, PROMPT)
    assert lock.is_locked
    lock.know(5.0, 0.002)

    assert lock.period_s == pytest.approx(0.1, rel=0.1)


def test_clock_set_back_and_forth_is_survived() -> None:
    """Times from before the last reading, or from a day later, begin the phase anew."""
    random = Random(6)
    times = publish_times(random, 0.1, 100, grid=False)
    lock = PublishLock(0.1)
    follow(lock, times, random, PROMPT)

    assert lock.due_ns(times[0] - 86_400 * NS) == times[0] - 86_400 * NS
    again = follow(lock, times, random, PROMPT)
    assert len(again.seen) >= 96
    day = [t + 86_400 * NS for t in times]
    lock.saw(day[0], day[0], True)
    assert day[0] < lock.due_ns(day[0]) < day[0] + NS


def test_late_wake_ups_are_made_up_for() -> None:
    """A thread that is always woken 8 ms late asks as much earlier; stamps stay as good."""
    random = Random(8)
    times = publish_times(random, 0.1, 600, grid=False)

    run = follow(PublishLock(0.1), times, random, Reader(late_s=(0.007, 0.009)))

    assert run.reads / len(run.seen) > 1.3  # 1.1 where every reading comes late
    assert len(run.seen) > 0.99 * run.published


def test_least_retry_is_kept() -> None:
    """A slow BMC is never asked again sooner after its answer than it was promised."""
    random = Random(9)
    times = publish_times(random, 2.0, 60, grid=False)
    lock, now_ns, newest = PublishLock(2.0, least_retry_s=0.2), BEGIN_NS, -1
    while now_ns < times[-1]:
        due_ns = lock.due_ns(now_ns)
        assert lock.reads == 0 or due_ns - now_ns >= 0.2 * NS - 1
        now_ns = due_ns + round(random.uniform(0.1, 3.0) * NS)
        index = sum(t <= due_ns for t in times) - 1
        lock.saw(due_ns, now_ns, index > newest)
        newest = index
    assert lock.updates > 20


@pytest.mark.parametrize("grid", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_stalls_longer_than_the_period_make_it_no_other(seed: int, grid: bool) -> None:
    """A fifth of all readings up to 1.5 periods late: the period is within what it claims."""
    random = Random(f"{seed} stalls {grid}")
    times = publish_times(random, 0.1, 400, grid=grid)

    run = follow(PublishLock(0.1, seed=seed), times, random, STALLED)

    sd_s = run.lock.period_sd_s
    assert sd_s is not None
    true_s = (times[-1] - times[0]) / (len(times) - 1) / NS
    assert abs(run.lock.period_s - true_s) < 4 * sd_s


@pytest.mark.parametrize("seed", range(4))
def test_a_period_too_short_for_the_readings_is_not_sure(seed: int) -> None:
    """A publisher of 0.3 s that may be asked every 0.2 s: what is claimed holds the truth."""
    random = Random(f"{seed} coarse")
    times = publish_times(random, 0.3, 200, grid=False)

    run = follow(PublishLock(1.0, least_retry_s=0.2, seed=seed), times, random, PROMPT)

    assert run.lock.period_sd_s is not None
    assert abs(run.lock.period_s - 0.3) < 2 * run.lock.period_sd_s
