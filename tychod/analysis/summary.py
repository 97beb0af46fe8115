"""What is learned of a domain, small enough to be saved after every window.

Kept are the parameters all workloads share with their covariance, and each workload's intensity
with its variance; what the data said of two workloads together is left out.  So a restart goes on
with what was known and is a little less sure of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tychod.analysis.columns import prior
from tychod.analysis.learned import CURVE_TERMS, NOISE_TERMS, Column, Float64s, Learned, Noise

VERSION: Final = 1
Plain = dict[str, Any]


def to_plain(learned: Learned) -> Plain:
    """Return plain lists and numbers for one domain."""
    fixed = learned.fixed
    return {
        "version": VERSION,
        "zones": list(learned.zones),
        "features": list(learned.features),
        "beta": learned.beta[:fixed].tolist(),
        "cov": learned.cov[:fixed, :fixed].ravel().tolist(),
        "columns": [
            [leaf, column.windows, column.absent, value, var, *past]
            for (leaf, column), value, var, past in zip(
                learned.columns.items(),
                learned.beta[fixed:].tolist(),
                np.diag(learned.cov)[fixed:].tolist(),
                _kept_past(learned).tolist(),
                strict=True,
            )
        ],
        "windows": learned.windows,
        "tau": learned.tau,
        "curve_var": learned.curve_var.tolist(),
        "lowest_w": learned.lowest_w.tolist(),
        "quiet_w": learned.quiet_w.tolist(),
        "noise": [
            learned.noise.theta.tolist(),
            learned.noise.start.tolist(),
            learned.noise.matrix.ravel().tolist(),
            learned.noise.vector.tolist(),
            learned.noise.excess,
            learned.noise.weight,
        ],
        "updated_ns": learned.updated_ns,
    }


def _kept_past(learned: Learned) -> Float64s:
    """Return what each total shares with the common parameters and with its own column."""
    fixed, own = learned.fixed, np.arange(len(learned.columns))
    return np.column_stack([learned.past[:, :fixed], learned.past[own, fixed + own]])


def from_plain(plain: Mapping[str, Any]) -> Learned:
    """Return what ``to_plain`` was given, as far as it is kept; raise ``ValueError`` for else."""
    try:
        return _parsed(plain)
    except (LookupError, TypeError, OverflowError, np.linalg.LinAlgError) as exc:
        raise ValueError(f"not a learned model: {exc!r}") from None


def _parsed(plain: Mapping[str, Any]) -> Learned:
    if plain["version"] != VERSION:
        raise ValueError(f"learned model of version {plain['version']!r}, not {VERSION}")
    zones, features = _names(plain["zones"]), _names(plain["features"])
    fixed = len(zones) + CURVE_TERMS + 1 + len(features)
    rows = list(plain["columns"])
    columns = {_text(leaf): Column(int(n), int(absent)) for leaf, n, absent, *_ in rows}
    if len(columns) != len(rows):
        raise ValueError("two columns of one workload")
    size = fixed + len(rows)
    beta, cov = np.zeros(size), np.zeros((size, size))
    beta[:fixed] = _floats(plain["beta"], fixed)
    cov[:fixed, :fixed] = _floats(plain["cov"], fixed * fixed).reshape(fixed, fixed)
    own = np.arange(fixed, size)
    beta[own] = _floats([row[3] for row in rows], len(rows))
    cov[own, own] = _floats([row[4] for row in rows], len(rows))
    past = np.zeros((len(rows), size))
    for i, row in enumerate(rows):
        past[i, [*range(fixed), fixed + i]] = _floats(row[5:], fixed + 1)
    learned = Learned(
        past=past,
        zones=zones,
        features=features,
        columns=columns,
        beta=beta,
        cov=cov,
        windows=max(int(plain["windows"]), 1),
        tau=float(_floats([plain["tau"]], 1)[0]),
        curve_var=_floats(plain["curve_var"], CURVE_TERMS),
        lowest_w=np.array([_floats(row, len(zones)) for row in plain["lowest_w"]]),
        quiet_w=_floats(plain["quiet_w"], len(zones)),
        noise=_noise(plain["noise"]),
        updated_ns=int(plain["updated_ns"]),
    )
    return _with_information(learned)


def _with_information(learned: Learned) -> Learned:
    """Return the model with the data's part of what is known: all that is known less the prior."""
    centre, precision = prior(learned)
    if not (np.linalg.eigvalsh(learned.cov) > 0.0).all():
        raise ValueError("a covariance that is none")
    known = np.linalg.inv(learned.cov)
    # The prior is newer than the covariance: what would be less than nothing known is nothing.
    scale = np.sqrt(np.diag(known))
    values, vectors = np.linalg.eigh((known - np.diag(precision)) / np.outer(scale, scale))
    part = (vectors * np.maximum(values, 0.0)) @ vectors.T
    info: Float64s = np.asarray(part * np.outer(scale, scale), np.float64)
    vector = (info + np.diag(precision)) @ learned.beta - precision * centre
    return replace(learned, info=info, vector=vector)


def _noise(plain: Sequence[Any]) -> Noise:
    theta, start, matrix, vector, excess, weight = plain
    return Noise(
        _floats(theta, NOISE_TERMS),
        _floats(start, NOISE_TERMS),
        _floats(matrix, NOISE_TERMS**2).reshape(NOISE_TERMS, NOISE_TERMS),
        _floats(vector, NOISE_TERMS),
        float(_floats([excess], 1)[0]),
        float(_floats([weight], 1)[0]),
    )


def _names(plain: Sequence[Any]) -> tuple[str, ...]:
    if not isinstance(plain, list | tuple):
        raise TypeError("names are a list")
    return tuple(_text(name) for name in plain)


def _text(plain: object) -> str:
    if not isinstance(plain, str):
        raise TypeError(f"{plain!r} is no name")
    return plain


def _floats(plain: Any, count: int) -> Float64s:
    found = np.array(plain, np.float64)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise ValueError("a number is missing or none")
    return found
