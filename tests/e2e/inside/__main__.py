"""Runs a suite of checks as root, here: `python3 -m tests.e2e.inside SUITE DIRECTORY`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.e2e.inside import (
    access,
    client,
    energy,
    hardware,
    identity,
    kernel,
    life,
    lives,
    metrics,
    package,
    routes,
    settings,
)
from tests.e2e.inside.machine import UNIT, run
from tests.e2e.inside.scene import Scene, clear
from tests.e2e.steps import Step, run_steps, say

Steps = tuple[Step[Scene], ...]

DEB: Final[Steps] = (
    Step("energy counters as a kernel makes them", package.meters_of_a_kernel),
    Step("apt install: active, READY, enabled", package.install_deb, 300),
    Step("units verified, little exposed", package.units_are_sound),
    Step("the caller's Python is kept out", package.callers_python_is_kept_out),
    Step("one capability", access.daemon_has_one_capability),
    Step("energy counters opened to the group", access.counters_are_opened_to_the_group),
    Step("energy counters of a later zone", access.later_zone_is_opened),
    Step("kernel accounting: two capabilities, no process", kernel.loader_has_two_capabilities),
    Step("kernel accounting: pins for the group", kernel.pins_are_for_the_group),
    Step("kernel accounting: daemon without BPF capability", kernel.daemon_counts_in_the_kernel),
    Step("socket: members yes, others exit 3", access.socket_is_for_members),
    Step("socket for another group", access.socket_for_another_group),
    Step("recordings: root yes, members exit 3", access.recordings_are_for_root),
    Step("energy adds up to the microjoule", energy.energy_adds_up),
    Step("energy follows the meters", energy.energy_follows_the_meters),
    Step("pods have names", energy.pods_have_names),
    Step("a member sees no more than the socket", access.member_sees_no_more),
    Step("hardware: pynvml comes along", hardware.package_brings_nvml),
    Step("hardware: BMC by credential, GPU, no password told", hardware.power_and_gpus, 240),
    Step("hardware: calibration by hand", hardware.calibrated_by_hand, 120),
    Step("hardware: open credentials are refused", hardware.open_credentials_are_refused, 240),
    Step("journal fields", access.journal_has_fields),
    Step("kill -9 under load loses nothing", energy.kill_loses_nothing, 120),
    Step("kernel accounting: a restart keeps it", kernel.restart_keeps_the_stamp),
    Step("kernel accounting: kill -9 loses no CPU time", kernel.kill_loses_no_cpu_time, 120),
    Step("kernel accounting: stopped and started", kernel.stopped_loader_is_told, 120),
    Step("kernel accounting: a capability is missing", kernel.missing_capability_is_told, 120),
    Step("kernel accounting: no BPF file system", kernel.missing_file_system_is_told, 120),
    Step("bad settings do not start", settings.bad_settings_do_not_start),
    Step("good reload", settings.good_reload_takes_over),
    Step("bad reload", settings.bad_reload_changes_nothing),
    Step("a hang is ended by the watchdog", life.hang_is_ended_by_the_watchdog, 180),
    Step("start on demand", life.starts_on_demand),
    Step("clean stop", life.stop_is_clean),
    Step("reinstall and upgrade keep the counters", package.upgrade, 300),
    Step("kernel accounting: an upgrade keeps it", kernel.upgrade_keeps_the_account, 180),
    Step("without any capability", access.runs_without_capability, 120),
    Step("unit and property tests, packaged Python", package.packaged_python_passes_tests, 600),
    Step("kernel accounting: a new layout", kernel.new_layout_replaces_the_old, 180),
    Step("remove and purge", package.purge_deb, 180),
    Step("nothing is left", package.nothing_is_left),
)
RPM: Final[Steps] = (
    Step("energy counters as a kernel makes them", package.meters_of_a_kernel),
    Step("the RPM installs and runs", package.install_rpm, 180),
    Step("energy counters opened to the group", access.counters_are_opened_to_the_group),
    Step("socket: members yes, others exit 3", access.socket_is_for_members),
    Step("energy adds up to the microjoule", energy.energy_adds_up),
    Step("pods have names", energy.pods_have_names),
    Step("kernel accounting: pins for the group", kernel.pins_are_for_the_group),
    Step("kernel accounting: daemon without BPF capability", kernel.daemon_counts_in_the_kernel),
    Step("kernel accounting: an upgrade keeps it", kernel.rpm_upgrade_keeps_the_account, 120),
    Step("clean stop", life.stop_is_clean),
    Step("erase", package.erase_rpm),
    Step("nothing is left", package.nothing_is_left),
)
IDENTITY: Final[Steps] = (
    Step("energy counters as a kernel makes them", package.meters_of_a_kernel),
    Step("apt install: active, READY, enabled", package.install_deb, 300),
    Step("runc: pods of every class, both cgroup drivers", identity.pods_of_runc, 120),
    Step("podman: both cgroup drivers", identity.podman, 120),
    Step("Docker, LXC, nspawn: cgroups of their shapes", identity.other_runtimes, 120),
    Step("systemd-nspawn: a real one", identity.real_nspawn, 120),
    Step("a user's own services and containers", identity.of_a_user, 120),
    Step("a cluster in a container", identity.nested_cluster, 120),
    Step("QEMU: in a service, in libvirt's scope, in a pod", identity.qemu, 120),
    Step("Firecracker: two under an agent", identity.firecracker, 120),
    Step("units: descriptions, and slices as sums", identity.units, 120),
    Step("units: without D-Bus", routes.units_without_bus, 150),
    Step("devices: checkpoint as the daemon, socket as root", identity.devices, 120),
    Step("kubelet: owner, labels, a pod that it alone knows", identity.kubelet, 180),
    Step("a container that lives 0.4 s", lives.brief_containers, 60),
    Step("50 containers in 5 s", lives.churn, 90),
    Step("a restart changes nobody", lives.restart_changes_nobody, 60),
)
OPERATOR: Final[Steps] = (
    Step("energy counters as a kernel makes them", package.meters_of_a_kernel),
    Step("apt install: active, READY, enabled", package.install_deb, 300),
    Step("metrics: off as delivered, the same by tychoctl", metrics.off_as_delivered),
    Step("metrics: TLS and a password by credentials", metrics.served_by_credentials, 180),
    Step("metrics: Prometheus scrapes", metrics.prometheus_scrapes, 240),
    Step("metrics: rules evaluate", metrics.rules_evaluate, 240),
    Step("metrics: every query of the dashboard", metrics.dashboard_resolves, 240),
    Step("metrics: Kepler's names", metrics.kepler_names, 240),
    Step("metrics: credentials that are missing", metrics.missing_credentials_do_not_start, 120),
    Step("client: manual pages", client.pages_are_clean),
    Step("client: completion", client.completion_works),
    Step("client: top leaves a clean terminal", client.top_leaves_a_clean_terminal, 120),
    Step("client: doctor names failures", client.doctor_names_failures, 120),
    Step("client: report adds up", client.report_adds_up),
    Step("client: the history is private, outlives kill -9", client.history_is_private, 150),
)
SUITES: Final = {"deb": DEB, "identity": IDENTITY, "operator": OPERATOR, "rpm": RPM}


def show_state(scene: Scene) -> None:
    """Print what somebody needs who wants to know why a step failed."""
    for argv in (
        ("systemctl", "status", "--no-pager", "--lines=0", UNIT),
        ("journalctl", "--no-pager", "--unit", UNIT, "--unit", kernel.LOADER, "--lines=30"),
        ("tail", "-n", "20", str(scene.directory / "simulator.log")),
    ):
        done = run(*argv, code=None)
        say("\n".join(f"    {line}" for line in (done.stdout + done.stderr).splitlines()))


def chosen_steps(suite: str, chosen: Sequence[str]) -> Steps:
    """Return a suite's steps, or those whose names contain one of `chosen`; none: no such step."""
    scenery, rest = SUITES[suite][:2], SUITES[suite][2:]  # meters and installation: all need them
    wanted = [s for s in rest if not chosen or any(words in s.name for words in chosen)]
    return (*scenery, *wanted) if wanted else ()


def main() -> int:
    """Run a suite, or those of its steps whose names contain one of the further arguments."""
    suite, directory, *chosen = sys.argv[1:]
    steps = chosen_steps(suite, chosen)
    scene = Scene(Path(directory), everything=suite == "identity")
    try:
        failed = run_steps(steps, scene, show_state)
    finally:
        clear(scene)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
