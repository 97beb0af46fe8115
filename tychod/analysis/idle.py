"""Idle floor of a domain: the power it draws when nothing runs.

First version: a line through (busy share, power) of every bin, with forgetting; its intercept is
the floor.  Both coordinates carry noise (other load, the meter's own steps), so the slope is the
geometric mean of the two regressions (reduced major axis): plain least squares would flatten it
and call load idle.  The line is believed only where busy share explains most of the power.  Until
it was, nothing is called idle on a guess; from then on the last good floor holds, but never above
the lowest power seen lately, which itself is forgotten upwards.
"""

import math
from typing import Final

from tychod.analysis.state import IdlePoint

HALF_LIFE_S: Final = 600.0
"""Seconds after which an observation counts half: the floor follows temperature and governor."""
ENOUGH_WEIGHT_S: Final = 15.0
ENOUGH_SPREAD: Final = 0.02
"""Standard deviation of the busy share needed before a slope is believed."""
ENOUGH_R2: Final = 0.5
"""Share of the power's variance that the busy share must explain."""
QUIET_SHARE: Final = 0.02
"""Below this mean busy share the lowest power itself is the floor."""
RISE_PER_S: Final = 0.0005
"""How fast the lowest power is forgotten upwards: half as much again in about 15 minutes."""


def observe(point: IdlePoint, busy_share: float, power_w: float, seconds: float) -> IdlePoint:
    """Return the moments after one more bin: busy share 0..1, mean power, length in seconds."""
    kept = point.weight * math.exp(-math.log(2.0) * seconds / HALF_LIFE_S)
    weight = kept + seconds
    gain = seconds / weight
    off_busy, off_w = busy_share - point.mean_busy, power_w - point.mean_w
    risen = math.exp(min(RISE_PER_S * seconds, 1.0))  # of weeks it would overflow
    lowest_w = point.lowest_w * risen if point.weight else power_w
    moved = IdlePoint(
        weight,
        point.mean_busy + gain * off_busy,
        point.mean_w + gain * off_w,
        (1.0 - gain) * (point.var_busy + gain * off_busy * off_busy),
        (1.0 - gain) * (point.cov + gain * off_busy * off_w),
        (1.0 - gain) * (point.var_w + gain * off_w * off_w),
        min(power_w, lowest_w),
        point.floor_w,
    )
    return moved._replace(floor_w=_floor_w(moved))


def _floor_w(point: IdlePoint) -> float:
    """Return the floor that the moments give, or the last good one where they give none."""
    if point.weight < ENOUGH_WEIGHT_S:
        return 0.0
    intercept_w = point.floor_w
    if _is_line(point):
        slope_w = math.sqrt(point.var_w / point.var_busy)
        intercept_w = max(point.mean_w - slope_w * point.mean_busy, 0.0)
    elif point.mean_busy <= QUIET_SHARE:
        intercept_w = point.lowest_w
    return min(intercept_w, point.lowest_w)


def _is_line(point: IdlePoint) -> bool:
    if point.var_busy < ENOUGH_SPREAD**2 or point.cov <= 0.0:
        return False
    return point.cov**2 >= ENOUGH_R2 * point.var_busy * point.var_w


def floor_w(point: IdlePoint) -> float:
    """Return the idle floor in watts; 0 while it is not known."""
    return point.floor_w
