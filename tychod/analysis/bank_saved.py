"""What a bank knows, as plain lists and numbers that can be saved after every window.

Candidates without hope are left out: they begin anew from the one in use, as they would anyway.
The base is looked for again in the first reading after a restart, whatever happened meanwhile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tychod.analysis.bank_features import LONGEST_BOXCAR_S, Kernel
from tychod.analysis.bank_state import EVIDENCE_FLOOR, Bank, fresh, unplaced
from tychod.analysis.learned import Float64s

VERSION: Final = 1
MOST_KERNELS, MOST_PARTS, LONGEST_LAG_S = 32, 16, 5.0
SHORTEST_BOXCAR_S: Final = 0.05
Plain = dict[str, Any]


def to_plain(bank: Bank) -> Plain:
    """Return plain lists and numbers."""
    upper = np.triu_indices(len(bank.theta))
    hopeful = bank.evidence > EVIDENCE_FLOOR
    hopeful[bank.applied] = True
    kept = np.flatnonzero(hopeful)
    return {
        "version": VERSION,
        "parts": list(bank.parts),
        "kernels": [list(kernel) for kernel in bank.kernels],
        "judged": list(bank.judged),
        "applied": bank.applied,
        "candidates": [
            [k, float(bank.evidence[k]), *bank.theta[:, k].tolist(), *cov.tolist()]
            for k, cov in zip(kept.tolist(), bank.cov[upper][:, kept].T, strict=True)
        ],
        "noise_w2": bank.noise_w2,
        "half_s": bank.half_s,
        "is_ready": bank.is_ready,
        "last_ns": bank.last_ns,
        "readings": bank.readings,
        "rejected": bank.rejected,
    }


def from_plain(plain: Mapping[str, Any]) -> Bank:
    """Return what ``to_plain`` was given, as far as it is kept; raise ``ValueError`` for else."""
    try:
        return _parsed(plain)
    except (LookupError, TypeError, OverflowError, np.linalg.LinAlgError) as exc:
        raise ValueError(f"not a bank of filters: {exc!r}") from None


def _parsed(plain: Mapping[str, Any]) -> Bank:
    if plain["version"] != VERSION:
        raise ValueError(f"bank of version {plain['version']!r}, not {VERSION}")
    bank = fresh(_names(plain["parts"]), 0.0, _kernels(plain["kernels"]))
    judged = tuple(_count(n) for n in plain["judged"])
    applied = _count(plain["applied"])
    noise, half_s = _floats([plain["noise_w2"], plain["half_s"]], 2).tolist()
    if len(judged) != len(bank.kernels) or applied >= len(bank.evidence):
        raise ValueError("a bank whose candidates do not fit together")
    if noise <= 0.0 or half_s < 0.0:
        raise ValueError("a bank without noise")
    bank = replace(
        _with_candidates(bank, applied, plain["candidates"]),
        judged=judged,
        noise_w2=noise,
        half_s=half_s,
        is_ready=bool(plain["is_ready"]),
        last_ns=_count(plain["last_ns"]),
        readings=_count(plain["readings"]),
        rejected=_count(plain["rejected"]),
    )
    return unplaced(bank)


def _with_candidates(bank: Bank, applied: int, rows: Sequence[Any]) -> Bank:
    """Return the bank with the candidates that were kept, and the others as the applied one."""
    size = len(bank.theta)
    row, column = np.triu_indices(size)
    at = [_count(k) for k, *_ in rows]
    found = np.array([_floats(values, 1 + size + len(row)) for _, *values in rows])
    if applied not in at or len(set(at)) != len(at) or max(at) >= len(bank.evidence):
        raise ValueError("a bank without the candidate that is in use, or with one twice")
    source = np.full(len(bank.evidence), at.index(applied))
    source[at] = np.arange(len(at))
    evidence = np.full(len(source), EVIDENCE_FLOOR)
    evidence[at] = found[:, 0]
    theta = found[source, 1 : 1 + size].T.copy()
    cov = np.zeros_like(bank.cov)
    cov[row, column] = cov[column, row] = found[source, 1 + size :].T
    is_possible = (theta >= 0.0).all() and (evidence <= 0.0).all()
    if not is_possible or not (np.linalg.eigvalsh(cov.transpose(2, 0, 1)) > 0.0).all():
        raise ValueError("a bank that cannot be: below zero, or a covariance that is none")
    return replace(bank, applied=applied, theta=theta, cov=cov, evidence=evidence)


def _names(plain: Any) -> tuple[str, ...]:
    names = tuple(plain) if isinstance(plain, list | tuple) else ()
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise TypeError("parts are a list of names")
    if not 0 < len(names) <= MOST_PARTS:
        raise ValueError(f"{len(names)} parts")
    return names


def _kernels(plain: Any) -> tuple[Kernel, ...]:
    kernels = tuple((lag, boxcar) for lag, boxcar in (_floats(k, 2).tolist() for k in plain))
    if not 0 < len(kernels) <= MOST_KERNELS or len(set(kernels)) != len(kernels):
        raise ValueError(f"{len(kernels)} kernels, or one twice")
    for lag, boxcar in kernels:
        is_lag = 0.0 <= lag <= LONGEST_LAG_S
        if not is_lag or not SHORTEST_BOXCAR_S <= boxcar <= LONGEST_BOXCAR_S:
            raise ValueError(f"no kernel: lag {lag} s, averaging {boxcar} s")
    return kernels


def _count(plain: Any) -> int:
    if not isinstance(plain, int) or isinstance(plain, bool) or plain < 0:
        raise TypeError(f"{plain!r} is no count")
    return plain


def _floats(plain: Any, count: int) -> Float64s:
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in plain):
        raise TypeError("not all are numbers")
    found = np.array(plain, np.float64)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise ValueError(f"not {count} numbers")
    return found
