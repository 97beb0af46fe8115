"""All checks, in the order in which they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tychod.doctor import accounting, aside, energy, machine, names, service, systemd
from tychod.doctor.model import Check, Finding, skip
from tychod.doctor.remedies import remedy

if TYPE_CHECKING:
    from tychod.doctor.model import Place

DRIVER_LINE: Final = 120


def look_at_driver(place: Place) -> Finding:
    """Read the version of the NVIDIA driver in the kernel."""
    path = f"{place.host.procfs}/driver/nvidia/version"
    text = place.host.read_text(path)
    if text is None:
        return skip(f"there is no {path}: no NVIDIA driver is loaded")
    line = (text.splitlines() or [""])[0]
    return Finding("ok", f"{path}: {line[:DRIVER_LINE]}")


def _hung(what: str) -> str:
    return remedy("hung", what=what)


_FILES: Final = _hung("a file system that does not answer shows in: ps -eo pid,stat,wchan,args")
_BPF: Final = _hung("tychod-load status")
_BUS: Final = _hung("busctl status org.freedesktop.systemd1; systemctl status dbus")
_KUBELET: Final = _hung("systemctl status kubelet; journalctl -u kubelet -n 50")
_DAEMON: Final = _hung("tychoctl status; journalctl -u tychod -n 50")
_NVIDIA: Final = _hung("nvidia-smi, and journalctl -k --grep=NVRM")

CHECKS: Final = (
    Check("kernel", "machine", "Kernel", machine.look_at_kernel, _FILES),
    Check("virtual", "machine", "Virtual machine", machine.look_at_virtualisation, _FILES),
    Check("clock", "machine", "Clock", machine.look_at_clock, _FILES),
    Check("libraries", "machine", "Python libraries", machine.look_at_libraries, _FILES),
    Check("settings", "service", "Settings", service.look_at_settings, _FILES),
    Check("service", "service", "Service", systemd.look_at_unit(systemd.SERVICE), _BUS),
    Check("socket", "service", "Socket", service.look_at_socket, _DAEMON),
    Check("capability", "service", "Capability", service.look_at_capability, _DAEMON),
    Check("state", "service", "State directory", service.look_at_state, _FILES),
    Check("cost", "service", "Own cost", service.look_at_cost, _DAEMON),
    Check("metrics", "service", "Metrics endpoint", service.look_at_metrics, _DAEMON),
    Check("loader-service", "accounting", "Loader", systemd.look_at_unit(systemd.LOADER), _BUS),
    Check("btf", "accounting", "BTF", accounting.look_at_btf, _FILES),
    Check("bpffs", "accounting", "BPF file system", accounting.look_at_bpf_file_system, _FILES),
    Check("loader", "accounting", "Loader's method", accounting.look_at_loader, _FILES),
    Check("rights", "accounting", "Rights to load", accounting.look_at_rights, _FILES),
    Check("programs", "accounting", "Kernel programs", accounting.look_at_programs, _BPF),
    Check("hierarchy", "accounting", "Cgroups", accounting.look_at_hierarchy, _FILES),
    Check("driver", "accounting", "Cgroup driver", accounting.look_at_cgroup_driver, _FILES),
    Check("rapl", "energy", "RAPL", energy.find_source("rapl"), _FILES),
    Check("powercap", "energy", "RAPL files", energy.look_at_powercap, _FILES),
    Check("filter", "energy", "RAPL filter", energy.look_at_filter, _FILES),
    Check("hwmon", "energy", "hwmon", energy.find_source("hwmon"), _hung("sensors")),
    Check("ipmi", "energy", "IPMI", energy.find_source("ipmi"), _hung("ipmitool mc info")),
    Check("redfish", "energy", "BMC credentials", energy.find_source("redfish"), _FILES),
    Check("bmc", "energy", "BMC", energy.look_at_bmc, remedy("slow-bmc")),
    Check("model", "energy", "CPU model", energy.find_source("model"), _FILES),
    Check("nvidia", "gpu", "NVIDIA driver", look_at_driver, _NVIDIA),
    Check("nvml", "gpu", "NVML", aside.look_at_gpus, _NVIDIA),
    Check("kubelet", "names", "Kubelet", names.look_at_kubelet, _KUBELET),
    Check("bundle", "names", "Bundles", names.find_route("bundle"), _FILES),
    Check("runtime-file", "names", "Runtimes' files", names.find_route("runtime-file"), _FILES),
    Check("log-link", "names", "Log links", names.find_route("log-link"), _FILES),
    Check("pod-logs", "names", "Pod logs", names.look_at_pod_logs, _FILES),
    Check("device-plugin", "names", "Pods' devices", names.find_devices("device-plugin"), _KUBELET),
    Check("pod-resources", "names", "Pod resources", names.find_devices("pod-resources"), _KUBELET),
    Check("systemd", "names", "Units' texts", names.look_at_units, _BUS),
    Check("firework", "names", "VM agent", names.look_at_agent, _DAEMON),
)
