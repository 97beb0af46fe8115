"""Flags of results, each with its meaning; the client explains them without the model."""

from typing import Final

LEAF_FLAGS: Final = {
    "pooled": "the data cannot tell its intensity from the others': it has about the mean",
    "new": "too young, or too little used, for an intensity of its own: it has the mean",
    "carved": "a VM without a cgroup of its own: within a window it runs as its cgroup does",
}
DOMAIN_FLAGS: Final = {
    "coarse-bins": "the meter gave no usable reading at some edges of bins; those were joined",
    "missing-cpu": "for a part of the window nothing says what ran",
    "missing-energy": "for a part of the window the meter could not be read",
    "learning": "the idle floor is still mostly a guess",
    "fallback-activity": "shared by CPU time and likeness, since cache misses are not counted",
}
