"""Every setting, declared once: type, range, default and one line of explanation.

The loader, ``etc/tychod.toml``, the table in the manual and ``tychoctl config`` all walk
these declarations.  Intervals are seconds.  ``Restart()`` marks what a reload cannot change.
"""

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from tychod.config_results import Control, History, Log, Metrics, Report
from tychod.schema import Doc, Range, Restart

Enabled = bool | Literal["auto"]
ENABLED_DOC: Final = (
    'true: its absence is a problem; "auto": used where it exists; false: never read.'
)


@dataclass(frozen=True, slots=True)
class Host:
    """Where the machine is found; other roots than the defaults serve containers and tests."""

    procfs: Annotated[str, Restart(), Doc("Root of procfs.")] = "/proc"
    sysfs: Annotated[str, Restart(), Doc("Root of sysfs.")] = "/sys"
    cgroupfs: Annotated[str, Restart(), Doc("Root of the cgroup file systems.")] = "/sys/fs/cgroup"
    run: Annotated[str, Restart(), Doc("Run-time state of other programs (containerd).")] = "/run"
    log: Annotated[str, Restart(), Doc("Root of the logs (containers, pods).")] = "/var/log"
    var: Annotated[str, Restart(), Doc("State of other programs (kubelet, Docker, Podman).")] = (
        "/var"
    )
    hierarchy: Annotated[
        Literal["auto", "v2", "v1"], Restart(), Doc("The one cgroup hierarchy that is believed.")
    ] = "auto"


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """The analysis window: results appear once per window."""

    length: Annotated[float, Range(1.0, 60.0), Restart(), Doc("Seconds in a window.")] = 3.0
    history: Annotated[
        float, Range(10.0, 600.0), Restart(), Doc("Seconds of samples kept in memory.")
    ] = 90.0


@dataclass(frozen=True, slots=True)
class Accounting:
    """CPU time of every cgroup: counted in the kernel (eBPF), else read from cgroup files."""

    loader: Annotated[
        Literal["auto", "core", "bcc", "off"],
        Restart(),
        Doc('What loads the kernel programs; "auto": the best that works; "off": cgroup files.'),
    ] = "auto"
    interval: Annotated[
        float, Range(0.2, 2.0), Restart(), Doc("Seconds between two readings of the kernel's maps.")
    ] = 1.0
    slots: Annotated[
        int,
        Range(64, 65536),
        Restart(),
        Doc("Cgroups that the kernel programs can tell apart at one time."),
    ] = 4096
    processes: Annotated[
        bool, Restart(), Doc("Account processes too, for `tychoctl processes`.")
    ] = False
    counters: Annotated[
        tuple[Literal["cycles", "instructions", "llc_misses"], ...],
        Restart(),
        Doc("Hardware counters to read at each task switch; empty: none."),
    ] = ()
    bcc_headers: Annotated[
        Literal["match", "any"],
        Restart(),
        Doc('Kernel headers that bcc may compile with: those of this kernel alone, or "any".'),
    ] = "match"
    cgroup_interval: Annotated[
        float, Range(0.1, 2.0), Restart(), Doc("Seconds between two readings of the cgroup files.")
    ] = 0.5


@dataclass(frozen=True, slots=True)
class Rapl:
    """Energy counters of CPU and memory (Linux powercap)."""

    enabled: Annotated[Enabled, Restart(), Doc(ENABLED_DOC)] = "auto"
    interval: Annotated[
        float, Range(0.01, 1.0), Restart(), Doc("Seconds between two readings.")
    ] = 0.05
    zones: Annotated[
        tuple[str, ...],
        Restart(),
        Doc('Zones to read, by domain ("package") or zone name ("package-0"); empty: all.'),
    ] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """Modelled CPU power, used only where no meter can be read; labelled `modelled`.

    The defaults are the average minimum (0.74 W) and maximum (3.5 W) per virtual CPU of cloud
    servers in the Cloud Carbon Footprint methodology, appendix I (AWS), from SPECpower results.
    """

    enabled: Annotated[Enabled, Restart(), Doc(ENABLED_DOC)] = "auto"
    interval: Annotated[float, Range(0.1, 2.0), Restart(), Doc("Seconds between two readings.")] = (
        0.5
    )
    idle_w_per_cpu: Annotated[
        float, Range(0.0, 1000.0), Restart(), Doc("Watts of each online CPU when idle.")
    ] = 0.74
    busy_w_per_cpu: Annotated[
        float, Range(0.0, 1000.0), Restart(), Doc("Further watts of each busy CPU.")
    ] = 2.76


@dataclass(frozen=True, slots=True)
class Hwmon:
    """Power and energy sensors of the kernel's hwmon class: ACPI power meters, boards, CPUs."""

    enabled: Annotated[Enabled, Restart(), Doc(ENABLED_DOC)] = "auto"
    interval: Annotated[
        float, Range(0.05, 2.0), Restart(), Doc("Seconds between two readings.")
    ] = 0.5
    sensors: Annotated[
        tuple[str, ...],
        Restart(),
        Doc('Sensors to read, by chip ("power_meter") or name; empty: all.'),
    ] = ()


@dataclass(frozen=True, slots=True)
class Ipmi:
    """The machine's power by IPMI DCMI: from the BMC, through the kernel, without a password."""

    enabled: Annotated[Enabled, Restart(), Doc(ENABLED_DOC)] = "auto"
    interval: Annotated[
        float, Range(0.2, 60.0), Restart(), Doc("Seconds between two readings.")
    ] = 1.0
    device: Annotated[str, Restart(), Doc("Device of the IPMI driver.")] = "/dev/ipmi0"


@dataclass(frozen=True, slots=True)
class Redfish:
    """The machine's power from its BMC, over HTTPS (DMTF Redfish)."""

    enabled: Annotated[
        Enabled, Restart(), Doc('true: its absence is a problem; "auto": used with credentials.')
    ] = "auto"
    interval: Annotated[
        float,
        Range(0.2, 60.0),
        Restart(),
        Doc("Seconds between two readings, until it is known how often the BMC publishes."),
    ] = 1.0
    credentials: Annotated[
        str,
        Restart(),
        Doc("TOML or CSV file with address, user and password; empty: systemd's credential."),
    ] = ""
    node: Annotated[
        str,
        Restart(),
        Doc("Name of this node in that file; empty: [kubelet] node_name, host name."),
    ] = ""
    ca_file: Annotated[
        str, Restart(), Doc("CA that signed the BMC's certificate, or that certificate itself.")
    ] = ""
    fingerprint: Annotated[
        str, Restart(), Doc("SHA-256 of the BMC's certificate, in place of a CA.")
    ] = ""
    insecure: Annotated[
        bool, Restart(), Doc("Do not verify the certificate: whoever answers gets the password.")
    ] = False
    timeout: Annotated[
        float, Range(0.5, 120.0), Restart(), Doc("Seconds to wait for an answer.")
    ] = 10.0
    chassis: Annotated[
        tuple[str, ...], Restart(), Doc("Ids of the chassis to add up; empty: the outermost ones.")
    ] = ()
    max_power: Annotated[
        float, Range(10.0, 1e6), Restart(), Doc("Watts that no chassis can draw: more is rejected.")
    ] = 20000.0


@dataclass(frozen=True, slots=True)
class Nvml:
    """NVIDIA GPUs, by the driver's library (NVML)."""

    enabled: Annotated[Enabled, Restart(), Doc(ENABLED_DOC)] = "auto"
    interval: Annotated[
        float,
        Range(0.01, 2.0),
        Restart(),
        Doc("Seconds between two updates of a GPU, until it is known how often it publishes."),
    ] = 0.1
    process_interval: Annotated[
        float, Range(0.1, 10.0), Restart(), Doc("Seconds between two looks at who uses the GPUs.")
    ] = 1.0
    library: Annotated[
        str, Restart(), Doc("Path of libnvidia-ml.so.1; empty: where the system finds it.")
    ] = ""


@dataclass(frozen=True, slots=True)
class Kubelet:
    """Pod metadata from this node's kubelet (`/pods`); the API server is never asked."""

    enabled: Annotated[Enabled, Restart(), Doc(ENABLED_DOC)] = "auto"
    interval: Annotated[
        float, Range(1.0, 3600.0), Restart(), Doc("Seconds between two questions.")
    ] = 30.0
    endpoint: Annotated[str, Restart(), Doc("Address of the kubelet.")] = "https://127.0.0.1:10250"
    read_only_port: Annotated[
        int,
        Range(0, 65535),
        Restart(),
        Doc("Plain-HTTP port to ask instead (usually 10255); 0: not used."),
    ] = 0
    node_name: Annotated[
        str,
        Restart(),
        Doc("Name of this node, as in the kubelet's certificate; empty: host name."),
    ] = ""
    ca_file: Annotated[
        str, Restart(), Doc("CA that signed the kubelet's certificate, or that certificate itself.")
    ] = ""
    client_cert_file: Annotated[str, Restart(), Doc("Client certificate (PEM).")] = ""
    client_key_file: Annotated[str, Restart(), Doc("Key of the client certificate (PEM).")] = ""
    token_file: Annotated[str, Restart(), Doc("File with a bearer token; re-read on change.")] = ""
    verify_tls: Annotated[
        bool, Restart(), Doc("Verify the kubelet's certificate; false only on a loopback endpoint.")
    ] = True
    timeout: Annotated[
        float, Range(0.1, 60.0), Restart(), Doc("Seconds to wait for an answer.")
    ] = 3.0
    root_dir: Annotated[
        str,
        Restart(),
        Doc("The kubelet's own directory, for device assignments; empty: the usual places."),
    ] = ""


@dataclass(frozen=True, slots=True)
class Workloads:
    """Who workloads are, and how long ended ones stay listed."""

    terminated_age: Annotated[
        float, Range(0.0, 86400.0), Doc("Seconds an ended workload stays listed.")
    ] = 600.0
    terminated_max: Annotated[
        int,
        Range(-1, 100000),
        Doc("Ended workloads listed at most, those with least energy leave first; -1: no limit."),
    ] = 500
    terminated_min_energy: Annotated[
        float, Range(0.0, 1e9), Doc("Joules that an ended workload must have to stay listed.")
    ] = 0.0
    vms: Annotated[
        bool, Restart(), Doc("Look for virtual machines that have no cgroup of their own.")
    ] = True
    firework_status: Annotated[
        str,
        Restart(),
        Doc('Where a Firework agent tells its services, as "http://127.0.0.1:8080"; empty: none.'),
    ] = ""
    units: Annotated[
        bool, Restart(), Doc("Ask systemd, over D-Bus, for the descriptions of units.")
    ] = True


@dataclass(frozen=True, slots=True)
class Attribution:
    """Who gets the energy that no workload's own work explains."""

    idle: Annotated[
        Literal["system", "reserved", "proportional", "equal"],
        Doc(
            'Who gets idle energy; "system": nobody; "reserved": by what pods requested, the rest '
            'by activity of those that requested nothing; "proportional": all by activity; '
            '"equal": all workloads that run, alike.'
        ),
    ] = "system"
    gpu_idle: Annotated[
        Literal["system", "allocated"],
        Doc(
            'Who gets the idle energy of a GPU; "system": nobody; "allocated": whoever it is '
            "assigned to."
        ),
    ] = "system"
    irq: Annotated[
        Literal["kernel", "interrupted"],
        Restart(),
        Doc('Who gets the time of interrupts; "interrupted": the cgroup that ran just then.'),
    ] = "kernel"


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of tychod."""

    host: Host = field(default_factory=Host)
    window: WindowSettings = field(default_factory=WindowSettings)
    accounting: Accounting = field(default_factory=Accounting)
    rapl: Rapl = field(default_factory=Rapl)
    model: Model = field(default_factory=Model)
    hwmon: Hwmon = field(default_factory=Hwmon)
    ipmi: Ipmi = field(default_factory=Ipmi)
    redfish: Redfish = field(default_factory=Redfish)
    nvml: Nvml = field(default_factory=Nvml)
    kubelet: Kubelet = field(default_factory=Kubelet)
    workloads: Workloads = field(default_factory=Workloads)
    attribution: Attribution = field(default_factory=Attribution)
    control: Control = field(default_factory=Control)
    metrics: Metrics = field(default_factory=Metrics)
    history: History = field(default_factory=History)
    report: Report = field(default_factory=Report)
    log: Log = field(default_factory=Log)
