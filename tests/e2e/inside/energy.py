"""Checks of the counters: they add up, follow the meters and survive the daemon's end."""

from typing import Final

from tests.e2e.inside.machine import (
    UNIT,
    Answer,
    ask,
    ask_pair,
    ensure_running,
    run,
    set_drop_in,
    time_s,
    unit_property,
    wait_for_window,
    wait_until,
)
from tests.e2e.inside.scene import Scene
from tests.e2e.inside.witness import Witness
from tests.e2e.steps import require

GAP_S: Final = 6
# Daemon and ledger know the counters at every 50 and 100 ms and interpolate in between.
EDGE_S: Final = 0.1

Counters = dict[tuple[str, ...], float]


def counters_of(node: Answer, workloads: Answer) -> Counters:
    """Return every cumulative number of the two answers under a name of its own."""
    found: Counters = {}
    for name, domain in node["domains"].items():
        for kind in ("energy_uj", "idle_uj", "dynamic_uj"):
            if domain[kind] is not None:
                found["node", name, kind] = domain[kind]
        for zone in domain["zones"]:
            found["zone", name, zone["name"], str(zone["socket"])] = zone["energy_uj"]
    for leaf in workloads["workloads"]:
        found["leaf", leaf["id"], "cpu_seconds"] = leaf["cpu_seconds"]
        for name, energy in leaf["energy"].items():
            for kind, value in energy.items():
                found["leaf", leaf["id"], name, kind] = value
    return found


def require_no_loss(before: Counters, after: Counters) -> None:
    """StepError when a counter vanished or got smaller."""
    gone = [key for key in before if key not in after]
    require(not gone, f"counters vanished: {gone[:5]}")
    fallen = [(key, before[key], after[key]) for key in before if after[key] < before[key]]
    require(not fallen, f"counters fell: {fallen[:5]}")


def require_conserved(node: Answer, workloads: Answer) -> None:
    """StepError unless the leaves add up to the node, to the microjoule."""
    for name in workloads["workloads"][0]["energy"]:
        for kind in ("idle_uj", "dynamic_uj"):
            leaves = sum(leaf["energy"][name][kind] for leaf in workloads["workloads"])
            total = node["domains"][name][kind]
            require(leaves == total, f"{name} {kind}: leaves {leaves}, node {total}")


def energy_adds_up(_: Scene) -> str:
    """Measured energy flows, and the leaves add up to the node's, exactly."""
    ensure_running()
    node, workloads = ask_pair()
    wait_for_window(node["sequence"])
    node, workloads = ask_pair()
    package = node["domains"]["package"]
    require(package["source"] == "rapl", f"package comes from {package['source']}")
    require(package["quality"] == "measured", f"package is {package['quality']}")
    require(package["dynamic_uj"] > 0, "no dynamic energy")
    require_conserved(node, workloads)
    return f"{package['power_w']:.1f} W over {len(workloads['workloads'])} workloads"


def energy_follows_the_meters(scene: Scene) -> str:
    """What the daemon counts between two windows is what the counters grew by."""
    witness = Witness(scene.ledger)
    first = wait_for_window(wait_for_window()["sequence"])
    last = wait_for_window(first["sequence"] + 1)
    note = require_witnessed(witness, first, last)
    witness.close()
    return note


def require_witnessed(witness: Witness, first: Answer, last: Answer) -> str:
    """StepError unless package energy between two windows' ends agrees with the ledger."""
    start_s, end_s = time_s(first["window"]["end"]), time_s(last["window"]["end"])
    seen_uj = witness.energy_uj(start_s, end_s)
    counted_uj = last["domains"]["package"]["energy_uj"] - first["domains"]["package"]["energy_uj"]
    allowed_uj = 2 * EDGE_S * seen_uj / (end_s - start_s)
    off_uj = abs(counted_uj - seen_uj)
    text = (
        f"{counted_uj / 1e6:.2f} J counted, {seen_uj / 1e6:.2f} J seen in {end_s - start_s:.1f} s"
    )
    require(off_uj <= allowed_uj, f"{text}: more than {allowed_uj / 1e6:.2f} J apart")
    return text


def pods_have_names(scene: Scene) -> str:
    """Pods are named from the host's own files, and the busier one uses more."""
    ensure_running()

    def named() -> dict[str, Answer] | None:
        pods = {pod["uid"]: pod for pod in ask("pods")["pods"]}
        return pods if all(pods.get(p.uid, {}).get("name") == p.name for p in scene.pods) else None

    wait_until("both pods are named", named, 20, pause_s=0.5)
    wait_for_window(wait_for_window()["sequence"])
    pods = named()
    require(pods, "the names went away")
    found = [(pods or {})[pod.uid] for pod in scene.pods]
    for pod, shown in zip(scene.pods, found, strict=True):
        require(shown["namespace"] == pod.namespace, f"namespace {shown['namespace']}")
        require(shown["containers"] == [pod.container], f"containers {shown['containers']}")
    busy, calm = (pod["total"]["dynamic_uj"] for pod in found)
    require(busy > calm > 0, f"busy pod {busy} uJ, calm pod {calm} uJ")
    table = run("tychoctl", "pods").stdout
    require(all(pod.name in table for pod in scene.pods), f"tychoctl pods shows:\n{table}")
    return ", ".join(
        f"{pod['namespace']}/{pod['name']} {pod['total_power_w']:.2f} W" for pod in found
    )


def kill_loses_nothing(scene: Scene) -> str:
    """After kill -9 under load every counter goes on, and the energy of the gap is there."""
    ensure_running()
    set_drop_in("gap", f"[Service]\nRestartSec={GAP_S}s\n")
    witness = Witness(scene.ledger)
    try:
        wait_for_window(wait_for_window()["sequence"])
        first, workloads = ask_pair()
        before = counters_of(first, workloads)
        restarts = int(unit_property("NRestarts"))
        run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", UNIT)
        wait_until(
            "systemd restarts it",
            lambda: int(unit_property("NRestarts")) > restarts,
            GAP_S + 10,
        )
        wait_until("active again", lambda: unit_property("ActiveState") == "active", 20)
        last = wait_for_window(first["sequence"], 30)
        require(last["window"]["gap"], "the first window is not marked as a gap")
        node, workloads = ask_pair()
        require_no_loss(before, counters_of(node, workloads))
        require_conserved(node, workloads)
        for key in ("since", "boot_id"):
            require(last[key] == first[key], f"{key} was {first[key]}, is {last[key]}")
        skipped = last["sequence"] - first["sequence"]
        require(skipped <= 2, f"sequence {first['sequence']}, then {last['sequence']}")
        require(last["window"]["seconds"] >= GAP_S, f"a gap of {last['window']['seconds']} s")
        return require_witnessed(witness, first, last)
    finally:
        witness.close()
        set_drop_in("gap", None)
