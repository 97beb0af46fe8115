"""The doctor's own remedies; those of collectors and of the kernel accounting are their own texts.

One table, so that a test can hold that each of them is shown for its cause.
"""

from types import MappingProxyType
from typing import Final

REMEDIES: Final = MappingProxyType(
    {
        "old-kernel": "use Linux {needed} or later; until then CPU time is read from cgroup files",
        "clock-source": (
            "see journalctl -k --grep='clocksource|tsc' for why the kernel gave up the TSC; a "
            "firmware update often helps"
        ),
        "clock-resolution": (
            "boot a kernel with high-resolution timers (without highres=off and nohz=off)"
        ),
        "library": "install it: apt install {debian} (Fedora, RHEL: dnf install {fedora})",
        "settings": "mend the settings named, then run: tychod --check-config",
        "settings-late": (
            "see what hangs: ls -l /etc/tychod /etc/tychod/conf.d; often a file server is away"
        ),
        "settings-unreadable": "run as root: sudo tychoctl doctor",
        "as-root": "run as root to see what tychod sees: sudo tychoctl doctor",
        "cgroup-drivers": (
            "give the kubelet and the container runtime the same cgroup driver (kubelet: "
            "cgroupDriver: systemd; containerd: SystemdCgroup = true), then restart both"
        ),
        "powercap-open": (
            "chmod o-r {path}, and remove whatever made it so: fast readings of energy tell "
            "secrets of other programs (CVE-2020-8694)"
        ),
        "powercap-group": (
            "systemctl restart tychod (its unit runs powercap-access, which makes the files "
            "0440 root:tychod-data)"
        ),
        "rapl-filter": (
            "switch SGX off in the firmware where nothing needs it; else use totals over minutes "
            "and a BMC ([redfish]) for exact energy"
        ),
        "insecure-bmc": (
            "set [redfish] ca_file, or fingerprint to the SHA-256 of the certificate, and "
            "insecure = false"
        ),
        "slow-bmc": (
            "see whether it answers: curl -k --max-time 10 https://ADDRESS/redfish/v1/ (its "
            "address is in [redfish] credentials); if not, check its network or reset it: "
            "ipmitool mc reset cold"
        ),
        "pod-logs": "run tychod with CAP_DAC_READ_SEARCH (its packaged unit does)",
        "not-installed": "install the package: apt install ./tychod_*.deb",
        "service-failed": (
            "see why: journalctl -u {unit} -b -n 50; then: systemctl reset-failed {unit} && "
            "systemctl start {unit}"
        ),
        "service-stopped": "systemctl enable --now {unit}",
        "service-starting": "tychoctl status --wait 10 waits for it; else: journalctl -u {unit} -b",
        "service-restarts": "see why it ended: journalctl -u {unit} -b --grep='Failed|status='",
        "capability": (
            "systemctl revert tychod && systemctl restart tychod: the packaged unit gives "
            "AmbientCapabilities=CAP_DAC_READ_SEARCH"
        ),
        "cost": (
            "see errors and late in tychoctl sources -o wide; lower [window] history or switch "
            "[accounting] processes off"
        ),
        "metrics": (
            "see who listens there: ss -ltnp; then journalctl -u tychod -b --grep=metrics, and "
            "[metrics] listen"
        ),
        "socket-missing": "start the daemon (systemctl start tychod), or check [control] socket",
        "socket-dead": "systemctl restart tychod: a stale socket file is replaced at start",
        "socket-open": "chmod 0660 {path}: everybody on this machine may ask the daemon",
        "socket-group": "groupadd --system {group}; then: systemctl restart tychod",
        "socket-member": "sudo usermod -aG {group} {user}, then log in again",
        "state-missing": "install -d -m 0700 -o {owner} {path}, or start tychod by its unit",
        "state-mode": "chmod 0700 {path}",
        "state-unwritable": "remount its file system writable, or chown {owner} {path}",
        "state-space": "make room on the file system of {path}: df -h {path}",
        "units-child": "see whether memory or processes are short: systemctl status --no-pager",
        "busy": "run it again when this machine is less busy: tychoctl doctor",
        "hung": "see whether it hangs: {what}",
        "fault": "this is a fault of tychod: please report it with this line",
    }
)


def remedy(name: str, **words: str) -> str:
    """Return the text of a remedy, with its words put in."""
    return REMEDIES[name].format(**words)
