"""Idle floor of a domain: the power it draws when nothing runs.

First version: a line through (busy share, power) with forgetting; its intercept is the floor,
never more than the lowest power seen lately.  Until the line has seen enough different loads the
floor is unknown and everything counts as dynamic: no energy is called idle on a guess.
"""

import math

from tychod.analysis.state import IdlePoint

HALF_LIFE_S = 600.0
"""Seconds after which an observation counts half: the floor follows temperature and governor."""
ENOUGH_WEIGHT_S = 30.0
ENOUGH_SPREAD = 0.05
"""Standard deviation of the busy share needed before a slope is believed."""
QUIET_SHARE = 0.02
"""Below this busy share the power itself is the floor."""
RISE_PER_S = 0.0005
"""How fast the lowest power is forgotten upwards: half as much again in about 15 minutes."""


def observe(point: IdlePoint, busy_share: float, power_w: float, seconds: float) -> IdlePoint:
    """Return the moments after one more window: busy share 0..1, mean power, length in seconds."""
    kept = point.weight * math.exp(-math.log(2.0) * seconds / HALF_LIFE_S)
    weight = kept + seconds
    gain = seconds / weight
    off_busy, off_w = busy_share - point.mean_busy, power_w - point.mean_w
    lowest = (
        power_w
        if not point.weight
        else min(power_w, point.lowest_w * math.exp(min(RISE_PER_S * seconds, 1.0)))
    )
    return IdlePoint(
        weight,
        point.mean_busy + gain * off_busy,
        point.mean_w + gain * off_w,
        (1.0 - gain) * (point.var_busy + gain * off_busy * off_busy),
        (1.0 - gain) * (point.cov + gain * off_busy * off_w),
        lowest,
    )


def floor_w(point: IdlePoint) -> float:
    """Return the idle floor in watts; 0 while it is not known."""
    if point.weight < ENOUGH_WEIGHT_S:
        return 0.0
    if point.var_busy >= ENOUGH_SPREAD**2:
        slope = max(point.cov / point.var_busy, 0.0)
        return min(max(point.mean_w - slope * point.mean_busy, 0.0), point.lowest_w)
    return point.lowest_w if point.mean_busy <= QUIET_SHARE else 0.0
