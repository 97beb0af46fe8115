"""The functional core: observations, a window and the state so far in; snapshot and state out.

No I/O, no clock, no threads: the same inputs give the same result, so that a recording replays.
"""
