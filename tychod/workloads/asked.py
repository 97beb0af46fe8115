"""Whom the registry asks for names, as it sees them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from tychod.workloads.firework import Service
from tychod.workloads.known import Devices, UnitFacts
from tychod.workloads.pods import PodView
from tychod.workloads.vmprocs import VmProcess


class PodSource(Protocol):
    """What the registry sees of the kubelet client."""

    @property
    def view(self) -> PodView | None:
        """The last good answer; replaced, never changed."""

    @property
    def asked_ns(self) -> int | None:
        """When the last question began."""

    @property
    def route(self) -> str:
        """How names come this way: ok, or why they do not, and what to do."""

    def is_stale(self, now_ns: int) -> bool:
        """Say whether what it told may have changed meanwhile."""


class UnitSource(Protocol):
    """What the registry sees of systemd."""

    @property
    def view(self) -> Mapping[str, UnitFacts]:
        """What it has told, by unit; changes while questions are answered."""

    @property
    def told(self) -> int:
        """How many answers there have been."""

    @property
    def route(self) -> str:
        """How that goes."""

    def want(self, unit_ids: Iterable[str]) -> None:
        """Say which units there are now: new ones are asked about, when there is time."""


class DeviceSource(Protocol):
    """What the registry sees of the kubelet's device assignments."""

    @property
    def told(self) -> tuple[object, ...]:
        """What the answers come from; another one when they may be others."""

    @property
    def routes(self) -> Mapping[str, str]:
        """How that goes, by way."""

    def devices_of(
        self, pod_uid: str | None, namespace: str | None, pod: str | None, container: str | None
    ) -> Devices:
        """Return the devices of one container, by resource name."""


class Agent(Protocol):
    """Who runs machines and tells what they are for."""

    @property
    def route(self) -> str:
        """How that goes: ok, or why not."""

    def service_of(self, vm: VmProcess) -> Service | None:
        """Return the service that a hypervisor's process runs; None: not told."""


class Others(NamedTuple):
    """Sources that a host may lack; None: switched off."""

    units: UnitSource | None = None
    devices: DeviceSource | None = None
    agent: Agent | None = None
    machine_keys: Iterator[int] | None = None
