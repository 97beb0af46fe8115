"""What the daemon knows of when devices publish: begun with, learned, kept and shown."""

import dataclasses
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tychod.clock import Clock
from tychod.collectors.base import Timing
from tychod.model import PlatformFit, Snapshot, SourceDevice, SourceStatus
from tychod.runtime.calibration import WRITE_EVERY_S, CalibrationFile

log = logging.getLogger(__name__)

SURE_S: Final = 0.5
"""A delay that is less sure than this is not shown as the BMC's."""


class TimingKeeper:
    """The calibration in use; one for the daemon's life."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        """``directory``: the daemon's state."""
        self._file: Final = CalibrationFile(directory)
        self._clock = clock
        self._refused: set[tuple[str, str]] = set()  # devices as they are now
        self._due_ns = 0

    def problems(self) -> dict[str, tuple[str, ...]]:
        """Return why the last write failed, by the name that it is shown under."""
        return {"calibration": (self._file.problem,)} if self._file.problem else {}

    def is_due(self) -> bool:
        """Say whether to look for something to learn: more often than it is written is no use."""
        return self._clock.now_ns() >= self._due_ns

    def find(self, name: str, fingerprint: str) -> Timing | None:
        """Return what is known of a device, called by collectors on their threads."""
        known = self._file.calibration
        refusal = known.refusal(name, fingerprint)
        if refusal and (name, fingerprint) not in self._refused:
            self._refused.add((name, fingerprint))
            log.info("%s", refusal, extra={"event": "calibration-refused"})
        entry = known.entry(name, fingerprint)
        return Timing(entry.period_s, entry.period_sd_s, entry.delay_s) if entry else None

    def shown(
        self, rows: Iterable[SourceStatus], snapshot: Snapshot | None
    ) -> tuple[SourceStatus, ...]:
        """Return the sources with what is known of their devices, as calibrated or by analysis."""
        return tuple(
            dataclasses.replace(row, devices=self._devices(row, snapshot)) if row.devices else row
            for row in rows
        )

    def _devices(self, row: SourceStatus, snapshot: Snapshot | None) -> tuple[SourceDevice, ...]:
        platform = snapshot.domains.get("platform") if snapshot else None
        fit = snapshot.fit if snapshot and platform and platform.source == row.name else None
        known = self._file.calibration
        return tuple(known.known(_with_delay(device, fit)) for device in row.devices)

    def learn(self, rows: Iterable[SourceStatus]) -> None:
        """Keep what was learned or has drifted; at most once a minute anything is written."""
        self._due_ns = self._clock.now_ns() + round(WRITE_EVERY_S * 1e9)
        devices = [device for row in rows for device in row.devices]
        wall_s = (self._clock.now_ns() + self._clock.wall_offset_ns()) / 1e9
        date = time.strftime("%Y-%m-%d", time.gmtime(wall_s))
        if self._file.learn(devices, self._clock.now_ns() / 1e9, date):
            log.info("calibration kept in %s", self._file.path, extra={"event": "calibration-kept"})


def _with_delay(device: SourceDevice, fit: PlatformFit | None) -> SourceDevice:
    """Return a BMC with the delay that analysis found: what the data tell is its centroid."""
    if fit is None or fit.method != "fused" or (fit.centroid_sd_s or SURE_S) >= SURE_S:
        return device
    return device._replace(delay_s=fit.centroid_s, delay_sd_s=fit.centroid_sd_s)
