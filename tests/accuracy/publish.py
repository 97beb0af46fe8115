"""How well the publishing of a device is followed: period, values seen, readings, time stamps.

Run ``python -m tests.accuracy.publish [SEEDS]``.  The publisher, the late wake-ups and the length
of a reading are simulated; which publish a reading sees is then known, and so is its time.
"""

import sys
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple

from tests.accuracy.figure import Figure
from tychod.collectors.publishlock import PublishLock

NS: Final = 1_000_000_000
UPDATES: Final = 3000
BEGIN_NS: Final = 1000 * NS


class Reader(NamedTuple):
    """How a reading comes about, in seconds: woken late, now and then very late, then it lasts."""

    late_s: tuple[float, float] = (0.000_05, 0.000_3)
    hiccup_s: tuple[float, float] = (0.002, 0.015)
    hiccups: float = 0.01
    lasts_s: tuple[float, float] = (0.000_02, 0.000_05)

    def wake_ns(self, random: Random, due_ns: int) -> int:
        """When a reading that was due then begins."""
        late_s = random.uniform(*self.late_s)
        if random.random() < self.hiccups:
            late_s += random.uniform(*self.hiccup_s)
        return due_ns + round(late_s * NS)


class Followed(NamedTuple):
    """What a lock made of a publisher."""

    published: int  # while it was read
    seen: tuple[int, ...]  # which ones gave a stamp
    reads: int
    errors_ns: tuple[int, ...]  # of the stamps, once locked
    half_ns: tuple[int, ...]
    lock: PublishLock


def publish_times(
    random: Random, period_s: float, updates: int, *, grid: bool, jitter: float = 0.05
) -> list[int]:
    """When a device publishes: ``grid``: jitter about fixed moments, else each from the last."""
    times, t_s = [], period_s * random.random()
    for _ in range(updates):
        times.append(BEGIN_NS + round((t_s + grid * random.gauss(0, jitter) * period_s) * NS))
        t_s += period_s * (1 + (not grid) * random.gauss(0, jitter))
    return times


def follow(lock: PublishLock, times: Sequence[int], random: Random, reader: Reader) -> Followed:
    """Read until the last publish; the value is that of a moment within the reading."""
    now_ns, newest, first = BEGIN_NS, -1, -1
    seen, errors, halves = [], [], []
    while now_ns < times[-1]:
        start_ns = reader.wake_ns(random, lock.due_ns(now_ns))
        now_ns = start_ns + round(random.uniform(*reader.lasts_s) * NS)
        asked_ns = random.randint(start_ns, now_ns)
        index = newest
        while index + 1 < len(times) and times[index + 1] <= asked_ns:
            index += 1
        was_locked = lock.is_locked
        stamp = lock.saw(start_ns, now_ns, index > newest)
        first = index if lock.reads == 1 else first
        if stamp is not None:
            seen.append(index)
            if was_locked:
                errors.append(stamp.t_ns - times[index])
                halves.append(stamp.half_ns)
        newest = index
    return Followed(newest - first, tuple(seen), lock.reads, tuple(errors), tuple(halves), lock)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def period_error_percent(followed: Followed, times: Sequence[int]) -> float:
    """Of the lock's period at the end, against that of the last 200 publishes."""
    last = times[-201:]
    true_s = (last[-1] - last[0]) / (len(last) - 1) / NS
    return abs(followed.lock.period_s / true_s - 1) * 100


def _steady(
    period_s: float, seeds: Sequence[int], most_reads: float, *, grid: bool
) -> list[Figure]:
    runs = []
    for seed in seeds:
        random = Random(f"{seed} {period_s} {grid}")
        times = publish_times(random, period_s, UPDATES, grid=grid)
        lock = PublishLock(0.1, seed=seed)
        runs.append((times, follow(lock, times, random, Reader())))
    case = f"publisher {period_s * 1e3:g} ms {'I' if grid else 'A'}"
    period = max(period_error_percent(run, times) for times, run in runs)
    found = [run for _, run in runs]
    errors = [abs(error) / NS / period_s * 100 for run in found for error in run.errors_ns]
    share = min(len(run.seen) / run.published for run in found) * 100
    twice = sum(len(run.seen) - len(set(run.seen)) for run in found)
    reads = max(run.reads / len(run.seen) for run in found)
    return [
        Figure(case, "period, error at the end, worst", period, "%", 2.0),
        Figure(case, "updates seen, worst", share, "%", 99.5, is_floor=True),
        Figure(case, "updates given twice", twice, "", 0.0),
        Figure(case, "readings an update, worst", reads, "", most_reads),
        Figure(case, "time stamp error, p95 of the period", quantile(errors, 0.95), "%", 8.0),
    ]


def _shortens(seeds: Sequence[int]) -> list[Figure]:
    """A publisher of 100 ms that becomes one of 50 ms half-way."""
    shares, periods = [], []
    for seed in seeds:
        random = Random(f"{seed} shortens")
        before = publish_times(random, 0.1, UPDATES // 2, grid=False)
        after = publish_times(random, 0.05, UPDATES, grid=False)
        times = before + [before[-1] + t - BEGIN_NS + 10**7 for t in after]
        run = follow(PublishLock(0.1, seed=seed), times, random, Reader())
        shares.append(len(run.seen) / run.published * 100)
        periods.append(period_error_percent(run, times))
    case = "publisher 100 -> 50 ms"
    return [
        Figure(case, "updates seen, worst", min(shares), "%", 98.0, is_floor=True),
        Figure(case, "period, error at the end, worst", max(periods), "%", 2.0),
    ]


def _stalled(seeds: Sequence[int]) -> list[Figure]:
    """A minute of 100 ms on a machine short of CPU time: a fifth of the readings late."""
    reader = Reader(hiccup_s=(0.01, 0.15), hiccups=0.2)
    periods = []
    for seed in seeds:
        random = Random(f"{seed} stalled")
        times = publish_times(random, 0.1, UPDATES // 5, grid=False)
        run = follow(PublishLock(0.1, seed=seed), times, random, reader)
        true_s = (times[-1] - times[0]) / (len(times) - 1) / NS
        periods.append(abs(run.lock.period_s / true_s - 1) * 100)
    case = "publisher 100 ms, stalls"
    return [Figure(case, "period, error after a minute, worst", max(periods), "%", 2.0)]


def _bmc(seeds: Sequence[int]) -> list[Figure]:
    """A BMC of 2 s +-0.1 s that answers after 0.1 to 0.4 s, asked no sooner than 0.2 s after."""
    found = []
    for seed in seeds:
        random = Random(f"{seed} bmc")
        times = publish_times(random, 2.0, 600, grid=False)
        lock = PublishLock(1.0, least_retry_s=0.2, seed=seed)
        found.append(follow(lock, times, random, Reader(lasts_s=(0.1, 0.4))))
    errors = [abs(error) / NS for run in found for error in run.errors_ns]
    share = min(len(run.seen) / run.published for run in found) * 100
    reads = max(run.reads / len(run.seen) for run in found)
    case = "BMC 2 s, slow answers"
    return [
        Figure(case, "updates seen, worst", share, "%", 99.5, is_floor=True),
        Figure(case, "readings an update, worst", reads, "", 1.6),
        Figure(case, "time stamp error, p95", quantile(errors, 0.95), "s", 0.25),
    ]


def figures(seeds: Sequence[int]) -> list[Figure]:
    """All rows; each seed has its own publishers."""
    rows: list[Figure] = []
    for period_s, most_reads in ((0.02, 1.5), (0.1, 1.5), (1.0, 1.6)):
        rows += _steady(period_s, seeds, most_reads, grid=False)
        rows += _steady(period_s, seeds, most_reads, grid=True)
    return [*rows, *_shortens(seeds), *_stalled(seeds), *_bmc(seeds)]


def main(show: Callable[[str], None] = print) -> None:
    """Print the rows."""
    for figure in figures(range(int(sys.argv[1]) if len(sys.argv) > 1 else 4)):
        show(figure.render())


if __name__ == "__main__":
    main()
