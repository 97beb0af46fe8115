"""Checks of short lives: a container that is gone before anybody looks, and many in a row."""

import concurrent.futures
import json
import time
from pathlib import Path
from typing import Final

from tests.e2e.inside.burner import SWITCH_S, TICK_S, Unseen, peek, unseen
from tests.e2e.inside.containers import Made, RealPod, require_tools
from tests.e2e.inside.energy import counters_of, require_conserved, require_no_loss
from tests.e2e.inside.machine import (
    Answer,
    ask,
    ask_pair,
    ensure_running,
    restart,
    wait_for_window,
    wait_until,
)
from tests.e2e.inside.scene import CGROUPS, Scene
from tests.e2e.inside.town import differences, find
from tests.e2e.steps import require

BRIEF_S: Final = 0.4
BRIEF_PERCENT: Final = 50
MANY: Final = 50
EACH_USEC: Final = 20_000
SPREAD_S: Final = 5.0
LASTING: Final = ("kind", "name", "namespace", "pod", "pod_uid", "runtime", "cgroup", "parent")


def brief_containers(scene: Scene) -> str:
    """A container that lives 0.4 s has its name, all of its CPU time, and energy."""
    require_tools("runc")
    ensure_running()
    wait_for_window()
    began = all_irq()
    usec = int(BRIEF_S * 1e6 * BRIEF_PERCENT / 100)
    notes = []
    for systemd in (True, False):
        pod = RealPod(scene, f"{scene.name}-job{systemd:d}", "jobs", "Burstable", systemd=systemd)
        scene.undo.append(pod.clear)
        made = Made(pod, "once", BRIEF_PERCENT, usec)
        began_s = time.time()
        made.run()
        notes.append((made, time.time() - began_s))
    pods = {pod["uid"]: pod for pod in ended([made for made, _ in notes])}
    leaves = ask("workloads")
    irq_s, seen = all_irq()
    for made, _ in notes:
        leaf = find(leaves, made.row()) or {}
        wrong = differences(leaf or None, made.row() | {"state": "terminated"})
        require(not wrong, f"{made.row()}: {wrong}")
        # The program itself saw so much go by; what its runtime used came on top.
        least_s = usec / 1e6 - (irq_s - began[0]) - seen.since_s(began[1])
        require(leaf["cpu_seconds"] >= least_s, f"{leaf['cpu_seconds']} s, at least {least_s} s")
        require(leaf["total"]["dynamic_uj"] > 0, f"no energy: {leaf}")
        require(pods[made.pod.uid]["state"] == "terminated", f"{pods[made.pod.uid]}")
    return ", ".join(f"lived {lived_s:.2f} s" for _, lived_s in notes)


def ended(made: list[Made]) -> list[Answer]:
    """Wait until all of these containers are listed as ended; return the pods."""

    def seen() -> bool:
        leaves = {leaf["id"]: leaf["state"] for leaf in ask("containers")["workloads"]}
        return all(leaves.get(one.id) == "terminated" for one in made)

    settle()
    wait_until("the ends", seen, 15, pause_s=0.5)
    pods: list[Answer] = ask("pods")["pods"]
    return pods


def settle() -> None:
    """Wait for the end of the second window that begins from now on: it has all that was."""
    sequence = wait_for_window()["sequence"]
    wait_for_window(wait_for_window(sequence)["sequence"])


def churn(scene: Scene) -> str:
    """Of 50 containers in 5 s each has its name and energy, and no CPU time is lost."""
    require_tools("runc")
    ensure_running()
    wait_for_window()
    pod = RealPod(scene, f"{scene.name}-churn", "jobs", "BestEffort", systemd=False)
    scene.undo.append(pod.clear)
    cgroup = CGROUPS / pod.cgroup
    cgroup.mkdir(parents=True)  # the kubelet makes it; its cpu.stat keeps what ended below it
    before, (irq_s, seen) = counters_of(*ask_pair()), all_irq()
    made = [Made(pod, f"one{number}", 100, EACH_USEC) for number in range(MANY)]
    took_s = run_spread(made)
    (shown,) = (p for p in ended(made) if p["uid"] == pod.uid)
    node, workloads = ask_pair()
    require_conserved(node, workloads)
    require_no_loss(before, counters_of(node, workloads))
    for one in made:
        leaf = find(workloads, one.row())
        wrong = differences(leaf, one.row() | {"state": "terminated"})
        require(not wrong, f"{one.row()}: {wrong}")
        require(leaf and leaf["total"]["dynamic_uj"] > 0, f"no energy: {leaf}")
    after_irq_s, after = all_irq()
    used_s = usage_s(cgroup)
    off_s = shown["cpu_seconds"] - used_s
    # Each began and ended by a switch of its own; irq time in them is the kernel's leaf's.
    allowed_s = MANY * (TICK_S / 10 + SWITCH_S) + TICK_S + after.since_s(seen)
    text = f"{shown['cpu_seconds']:.4f} s counted, cpu.stat {used_s:.4f} s"
    require(off_s <= allowed_s, f"{text}: more than there was by over {allowed_s:.4f} s")
    require(-off_s <= allowed_s + after_irq_s - irq_s, f"{text}: some is lost")
    return f"{MANY} in {took_s:.1f} s, all named; {text}"


def run_spread(made: list[Made]) -> float:
    """Run containers evenly over the time, each as soon as it is due; return how long it took."""
    began_s = time.monotonic()

    def run_one(index: int) -> None:
        time.sleep(max(0.0, began_s + index * SPREAD_S / len(made) - time.monotonic()))
        made[index].run()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(run_one, range(len(made))))
    return time.monotonic() - began_s


def usage_s(cgroup: Path) -> float:
    """Return the CPU time of a cgroup with all that was ever below it."""
    lines = (cgroup / "cpu.stat").read_text(encoding="ascii").splitlines()
    return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6


def all_irq() -> tuple[float, Unseen]:
    """Return irq time in all cgroups, and what no cpu.stat can have told."""
    times, missed = peek()
    return sum(softirq + irq for _, softirq, irq in times) / 1e9, unseen(missed)


def restart_changes_nobody(scene: Scene) -> str:
    """After a restart everybody who was listed is, with no less energy; names are the same."""
    ensure_running()
    wait_for_window()
    before, first = counters_of(*ask_pair()), ask("workloads")
    restart()
    wait_for_window(first["sequence"])
    settle()
    require_no_loss(before, counters_of(*ask_pair()))
    last = ask("workloads")
    own = [leaf for leaf in first["workloads"] if scene.name in json.dumps(leaf)]
    for leaf in own:
        wrong = differences(find(last, {"id": leaf["id"]}), {key: leaf[key] for key in LASTING})
        require(not wrong, f"{leaf['id']}: {wrong}")
    return f"{len(own)} of {len(first['workloads'])} workloads are the scene's"
