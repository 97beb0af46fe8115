"""What a loader is asked for, and what it gives: the same for every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Everything about this machine and its settings that the programs must know."""

    version: Literal["v2", "v1"]  # the hierarchy whose cgroups are the keys
    root_cgid: int  # inode of that hierarchy's root
    hierarchy_id: int  # its number in /proc/cgroups; 0 for cgroup2
    packages: tuple[int, ...]  # row of the package (from 0, dense) of each possible CPU
    slots: int
    processes: bool = False
    counters: tuple[str, ...] = ()  # of abi.COUNTERS
    process_slots: int = 16_384
    exit_ns: int = 1_000_000  # a process that used less leaves no exit record


class Loaded(NamedTuple):
    """Descriptors of a running accounting; it ends when the last link is closed or unpinned."""

    maps: Mapping[str, int]  # by the names in abi.MAPS
    links: Mapping[str, int]  # program -> link
    notes: tuple[str, ...] = ()  # what is missing and does no harm, for the log


class LoadError(Exception):
    """The programs cannot be loaded: why, and what a person could do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy

    @property
    def text(self) -> str:
        """Both in one line."""
        return f"{self.reason}; {self.remedy}"
