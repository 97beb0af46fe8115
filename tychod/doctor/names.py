"""Where names of pods, containers and units come from: each way asked as the daemon asks it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tychod.doctor.accounting import cgroups_below
from tychod.doctor.children import ask
from tychod.doctor.energy import not_for_us
from tychod.doctor.model import Finding, ok, skip
from tychod.doctor.remedies import remedy
from tychod.documents import parse_json
from tychod.hostfs import render_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from tychod.doctor.model import Place
    from tychod.model import Identity

MOST_CONTAINERS: Final = 20
"""Containers whose names are looked up: a way that works for these works."""
UNIT: Final = "init.scope"
"""What systemd always has (systemd.special(7))."""
BUS_S: Final = 1.9
PAUSE_S: Final = 0.02
ANSWER_BYTES: Final = 1 << 16


def containers(place: Place) -> list[Identity]:
    """Return the containers whose cgroups are there, a few of them."""
    from tychod.workloads.paths import identify

    found: dict[str, Identity] = {}
    for path in cgroups_below(place):
        identity = identify(path)
        if identity is not None and identity.kind == "container":
            found.setdefault(identity.id, identity)
        if len(found) == MOST_CONTAINERS:
            break
    return list(found.values())


def find_route(name: str) -> Callable[[Place], Finding]:
    """Return the look at one way that goes by files: ``bundle``, ``runtime-file``, ``log-link``."""

    def look(place: Place) -> Finding:
        there = containers(place)
        if not there:
            return skip("no container runs here")
        return judge_route(_route_by_files(name, place, there), place)

    return look


def _route_by_files(name: str, place: Place, there: list[Identity]) -> str:
    from tychod.workloads.hostfiles import Bundles, LogLinks
    from tychod.workloads.runtimefiles import RuntimeFiles

    now_ns = place.clock.now_ns()
    if name == "bundle":
        bundles = Bundles(place.host)
        for identity in there:
            bundles.read(identity.id, now_ns)
        return bundles.route
    if name == "runtime-file":
        files = RuntimeFiles(place.host)
        for identity in there:
            files.read(identity.id, identity.runtime, now_ns, identity.pod_uid)
        return files.route
    links = LogLinks(place.host)
    for identity in there:
        links.read(identity.id, now_ns)
    return links.route


def judge_route(told: str, place: Place) -> Finding:
    """Judge a way by its own text, as the daemon's answers do."""
    from tychod.runtime.replies import route_state

    found = route_state(told)
    state, reason, advice = found["state"], found["reason"], found["remedy"]
    if state == "ok":
        return ok(f"works{f'; {reason}' if reason else ''}")
    if state in ("unused", "off"):
        return skip(str(reason))
    wrong = Finding("warn", str(reason), str(advice) if advice else None)
    return not_for_us(place, wrong.evidence) or wrong


def look_at_pod_logs(place: Place) -> Finding:
    """List the directory of the pods' logs."""
    directory = f"{place.host.log}/pods"
    try:
        found = place.host.list_dir(directory)
    except OSError as exc:
        wrong = Finding("warn", render_error(exc), remedy("pod-logs"))
        return not_for_us(place, wrong.evidence) or wrong
    if found is None:
        return skip(f"{directory} does not exist, which a kubelet makes")
    return ok(f"{directory} has the logs of {len(found)} pods")


def look_at_kubelet(place: Place) -> Finding:
    """Ask the kubelet for its pods, once, with the credential of the settings."""
    from tychod.workloads.kubelet import Kubelet

    settings = place.config.kubelet
    off = Kubelet(settings, place.host, place.node_name).probe()
    if off is not None:
        return skip(off.reason, off.remedy if settings.enabled is not False else None)
    from tychod.workloads.kubelet_http import Exchange, KubeletError

    exchange = Exchange(settings, place.host, place.node_name)
    try:
        pods = exchange.read_pods()
    except KubeletError as exc:
        return not_for_us(place, exc.reason) or Finding("fail", exc.reason, exc.remedy)
    finally:
        exchange.close()
    where = settings.endpoint if not settings.read_only_port else f"port {settings.read_only_port}"
    return ok(f"{where} answered: {len(pods)} pods")


def find_devices(name: str) -> Callable[[Place], Finding]:
    """Return the look at a way to the devices of pods: ``device-plugin``, ``pod-resources``."""

    def look(place: Place) -> Finding:
        from tychod.workloads.devices import DeviceRoutes

        routes = DeviceRoutes(place.config.kubelet, place.host)
        try:
            routes.poll(place.clock.now_ns())
            # The question runs in a thread of its own that ends by itself.
            while routes.routes["pod-resources"].startswith("not asked yet"):
                time.sleep(PAUSE_S)
                routes.poll(place.clock.now_ns())
            return judge_route(routes.routes[name], place)
        finally:
            routes.close()

    return look


def look_at_units(place: Place) -> Finding:
    """Ask systemd for the description of a unit, in the process that the daemon uses for it."""
    if place.config.workloads.units is False:
        return skip("switched off by the settings")
    from tychod.workloads import unit_child

    command = [sys.executable, "-I", str(Path(unit_child.__file__))]
    _, told = ask(command, BUS_S, b'"%s"\n' % UNIT.encode())
    answers = [parse_json(line, ANSWER_BYTES) for line in told.splitlines()]
    found = [answer for answer in answers if isinstance(answer, dict)]
    refused = next((answer for answer in found if "reason" in answer), None)
    if refused is not None:
        return Finding("warn", str(refused["reason"]), str(refused["remedy"]))
    if any(answer.get("unit") == UNIT for answer in found):
        return ok(f"systemd tells of units ({UNIT})")
    return Finding("warn", "the process that asks systemd ended early", remedy("units-child"))


def look_at_agent(place: Place) -> Finding:
    """Look whether the status of the micro-VM agent is configured; the daemon asks it."""
    status = place.config.workloads.firework_status
    if not status:
        return skip("not configured")
    return skip("the daemon asks it; see its view")
