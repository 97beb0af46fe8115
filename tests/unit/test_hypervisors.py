"""Command lines of hypervisors: which machine they run, and what of them never gets out."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychod.workloads.hypervisors import (
    COMMAND_LIMIT,
    Machine,
    believed_id,
    bounded_name,
    fallback_id,
    is_vcpu,
    parse_cmdline,
    parse_firecracker_config,
    parse_machine,
)

UUID = "df12672f-fedb-4f6f-9d51-0166868835fb"
GIB = 1 << 30
CANARY = "canary-S3cret"

# The other program's rows that we answer otherwise, by command line: hypervisor, id, name and why.
MADE_UP = "its id is the text of the program's path, the same for all: the process names ours"
NO_NAME = "a name that nobody gave is no name: readers show the id"
NO_MENTION = "only the first argument says what a process is"
BETTER: dict[tuple[str, ...], tuple[tuple[str | None, ...] | None, str]] = {
    ("/usr/bin/qemu-system-x86_64", "-machine", "pc"): (("qemu", None, None), MADE_UP),
    ("/usr/bin/qemu-system-x86_64", "-name"): (("qemu", None, None), MADE_UP),
    ("/usr/bin/qemu-system-x86_64", "-uuid"): (("qemu", None, None), MADE_UP),
    ("/usr/bin/qemu-system-x86_64", "-m", "1024"): (("qemu", None, None), MADE_UP),
    ("/usr/libexec/qemu-kvm",): (("qemu", None, None), MADE_UP),
    ("/usr/bin/qemu-system-x86_64", "-uuid", UUID): (("qemu", UUID, None), NO_NAME),
    ("/usr/local/lib/xen/bin/qemu-system-i386", "-xen-domid"): (("xen", None, None), MADE_UP),
    ("/usr/lib/vmware/bin/vmware-vmx", "-s", "vmx.stdio.keep=TRUE"): (
        ("vmware", None, None),
        MADE_UP,
    ),
    ("/usr/lib/vmware/bin/vmware-vmx", "-x"): (("vmware", None, None), MADE_UP),
    ("/usr/local/lib/xen/bin/qemu-system-i386", "-xen-domid", "5", "-machine", "xenpv"): (
        ("xen", "xen-5", None),
        "a bare number may be anybody's id",
    ),
    (
        "/usr/lib/xen/bin/qemu-system-i386",
        *("-xen-domid", "7", "-name", "guest=dom7,debug-threads=on"),
    ): (("xen", "xen-7", "dom7"), "a bare number may be anybody's id"),
    (
        "/usr/bin/kvm",
        *("-id", "100", "-name", "pve-vm,debug-threads=on", "-smbios", "type=1,uuid=aaaa"),
    ): (("qemu", "aaaa", "pve-vm"), "the guest's UUID is there, and the name ends at the comma"),
    ("/usr/bin/qemu-system-x86_64", "-name=guest=eq,debug-threads=on"): (
        ("qemu", "eq", "eq"),
        "what follows the first = is the value, keys and all",
    ),
    ("/bin/bash", "-c", "ls /usr/bin/qemu-system-x86_64"): (None, NO_MENTION),
    ("/usr/bin/vim", "/usr/bin/kvm_notes.txt"): (None, NO_MENTION),
    ("/usr/bin/cloud-hypervisor", "--api-socket", "/run/ch.sock"): (
        ("cloud-hypervisor", None, None),
        "not known to the other program",
    ),
}
RENAMED = {"kvm": "qemu"}


def shown(machine: Machine | None) -> tuple[str | None, ...] | None:
    """Return what the rows tell of a machine."""
    return machine and (machine.hypervisor, machine.id, machine.name)


def test_cases_of_command_lines(cases_dir: Path) -> None:
    """Every row gives what it says, or what is written beside it above, and none is forgotten."""
    rows = json.loads((cases_dir / "vm_cmdlines.json").read_text())["cases"]
    wrong, differing = [], set()
    for row in rows:
        argv, expect = tuple(row["cmdline"]), row["expect"]
        right = expect and (
            RENAMED.get(expect["hypervisor"], expect["hypervisor"]),
            expect["id"],
            expect["name"],
        )
        if argv in BETTER:
            assert BETTER[argv][0] != right, f"{argv} does not differ: {BETTER[argv][1]}"
            differing.add(argv)
            right = BETTER[argv][0]
        if shown(parse_machine(argv)) != right:
            wrong.append((argv, shown(parse_machine(argv)), right))

    assert not wrong
    assert differing == set(BETTER)


JAILED = ("--start-time-us=1", "--start-time-cpu-us=2", "--parent-cpu-time-us=3")
STATE = "/var/lib/firework/vms"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        pytest.param(
            (
                "/usr/bin/firecracker",
                *("--id", "0a1b2c", "--api-sock", f"{STATE}/web-1/firecracker.sock"),
                *("--config-file", f"{STATE}/web-1/vm-config.json"),
            ),
            Machine(
                "firecracker",
                "web-1",
                "web-1",
                identified_by="api-sock",
                config_file=f"{STATE}/web-1/vm-config.json",
            ),
            id="an agent's: the service before the instance's id",
        ),
        pytest.param(
            ("./firecracker", "--id=551e7604", *JAILED, "--", "--id=of-no-meaning"),
            Machine("firecracker", "551e7604", "551e7604", identified_by="--id"),
            id="jailed",
        ),
        pytest.param(
            ("firecracker-v1.7.0-x86_64", "--api-sock", "/run/fc.socket", "--no-seccomp"),
            Machine("firecracker"),
            id="by hand: nothing tells who it is",
        ),
        pytest.param(
            ("firecracker", "--id", "anonymous-instance", "--api-sock", "/run/a/firecracker.sock"),
            Machine("firecracker"),
            id="what every one without an id is called",
        ),
        pytest.param(
            ("firecracker", "--api-sock", "/x/vms/../firecracker.sock", "--id", "b"),
            Machine("firecracker", "b", "b", identified_by="--id"),
            id="a service's name that cannot be one",
        ),
        pytest.param(
            (
                "/opt/kata/bin/cloud-hypervisor",
                *("--cpus", "boot=4,max=8", "--memory", "size=512M,shared=on"),
                *("--platform", f"num_pci_segments=1,oem_strings=[a,uuid=no],uuid={UUID}"),
            ),
            Machine("cloud-hypervisor", UUID, None, 4, 512 << 20, "uuid"),
            id="Cloud Hypervisor",
        ),
        pytest.param(
            ("cloud-hypervisor-static", "--cpus", "4", "--memory=size=1073741824"),
            Machine("cloud-hypervisor", None, None, 4, GIB),
            id="Cloud Hypervisor counts bytes",
        ),
        pytest.param(
            (
                "/usr/bin/qemu-system-x86_64",
                *("-name", "guest=web,,1,process=qemu:web,debug-threads=on", "-S"),
                *("-uuid", UUID, "-m", "size=4194304k,slots=16,maxmem=8G"),
                *("-smp", "2,maxcpus=4,sockets=4,cores=1,threads=1"),
            ),
            Machine("qemu", UUID, "web,1", 2, 4 * GIB, "uuid"),
            id="libvirt's, with a comma in the name",
        ),
        pytest.param(
            ("kvm", "-smp", "sockets=2,cores=3,threads=2", "-m", "1.5G", "-name", "a b"),
            Machine("qemu", None, "a b", 12, None),
            id="a name is no id where it could not be one, and half a number is none",
        ),
        pytest.param(
            ("qemu-system-aarch64", "-smp", "0", "-m", "512", "--uuid", "0" * 8 + UUID[8:]),
            Machine("qemu", "0" * 8 + UUID[8:], None, None, 512 << 20, "uuid"),
            id="two dashes, megabytes, no CPU is none",
        ),
        pytest.param(
            ("qemu-kvm", "-uuid", "00000000-0000-0000-0000-000000000000", "-name", "n"),
            Machine("qemu", "n", "n", identified_by="name"),
            id="nobody's UUID",
        ),
        pytest.param(
            ("qemu-system-x86_64", "-smbios", f"type=0,uuid={CANARY}", "-name", "n"),
            Machine("qemu", "n", "n", identified_by="name"),
            id="another table of the firmware",
        ),
        pytest.param(
            ("/usr/lib/vmware/bin/vmware-vmx", "-s", "a=b", "/vms/My VM/My VM.vmx"),
            Machine("vmware", None, "My VM"),
            id="VMware, a name with a space",
        ),
    ],
)
def test_machines(argv: tuple[str, ...], expected: Machine) -> None:
    """What a command line tells of its machine, in the order in which its ids are believed."""
    assert parse_machine(argv) == expected


AROUND = (
    *("/usr/bin/jailer", "firecracker-containerd", "firectl", "/firecracker/jailer", "kvmtool"),
    *("qemu-system", "qemu-img", "qemu-ga", "qemu-nbd", "virtqemud", "VBoxSVC", "VBoxManage"),
    *("cloud-hypervisor-api", "ch-remote", "vmware-vmx.sh", "nginx: qemu-system-x86_64", ""),
    "qemu-system-x86_64 -name in-one-word",
)


def test_programs_around_hypervisors_are_none() -> None:
    """Whatever only has to do with machines runs none."""
    arguments = ("-name", "guest=x", "--id", "y", "-uuid", UUID)

    assert [p for p in AROUND if parse_machine((p, *arguments))] == []


NO_IDS = (
    *("kernel", "system", "past", "unattributed", "past:x", "lxc:web", "nspawn:web"),
    *("nginx.service", "a.scope", "user.slice", "x.mount", "tick.timer", "session.socket"),
    *("", ".hidden", "-x", "a/b", "..", "a b", "a\nb", "a\x1b[31m", "é", "x" * 65, "a\0"),
)


def test_ids_of_other_leaves_are_not_believed() -> None:
    """Who starts a machine cannot call it like a leaf of another kind, or like no id at all."""
    machines = [parse_machine(("firecracker", f"--id={text}")) for text in NO_IDS]

    assert [text for text in NO_IDS if believed_id(text)] == []
    assert {m and m.id for m in machines} == {None}
    assert believed_id("x" * 64) == "x" * 64


def test_fallback_ids_are_believed() -> None:
    """The id of a nameless machine tells its process, and is an id."""
    assert believed_id(fallback_id("cloud-hypervisor", 4194304, 2**53)) is not None
    assert fallback_id("qemu", 12, 345) == "qemu-12-345"


def test_secrets_stay() -> None:
    """Nothing of a command line gets out but an id, a name, two sizes and a path."""
    argv = (
        "/usr/bin/qemu-system-x86_64",
        *("-name", f"guest=web,process={CANARY}", "-uuid", UUID),
        *("-object", f'{{"qom-type":"secret","id":"masterKey0","data":"{CANARY}"}}'),
        *("-object", f"secret,id=s,data={CANARY}", "-append", f"root=/dev/vda password={CANARY}"),
        *("-drive", f"file=rbd:pool/x:key={CANARY},id=d", "-vnc", f":0,password={CANARY}"),
        *("-smbios", f"type=1,serial={CANARY}", "-smbios", f"type=11,value={CANARY}"),
        *("-fw_cfg", f"name=opt/x,string={CANARY}", "-m", CANARY, "-smp", CANARY),
    )

    assert CANARY not in repr(parse_machine(argv))


def test_secrets_of_firecrackers_configuration_stay() -> None:
    """Its kernel's arguments and drives are not looked at."""
    document = {
        "boot-source": {"kernel_image_path": CANARY, "boot_args": f"console=ttyS0 TOKEN={CANARY}"},
        "drives": [{"path_on_host": CANARY}],
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 512, "cpu_template": CANARY},
    }

    assert parse_firecracker_config(json.dumps(document).encode()) == (2, 512 << 20)


BAD_CONFIGURATIONS = {
    b"": None,
    b'{"machine-config": {"vcpu_count": 2': None,
    b"[" * 100_000: None,
    b'{"machine-config": []}': None,
    b"7": None,
    b"\xff\xfe": None,
    b'{"machine-config": {}}': (None, None),
    b'{"machine-config": {"vcpu_count": true, "mem_size_mib": "512"}}': (None, None),
    b'{"machine-config": {"vcpu_count": -1, "mem_size_mib": 1e3}}': (None, None),
    b'{"machine-config": {"vcpu_count": 4, "mem_size_mib": 1' + b"0" * 30 + b"}}": (4, None),
}


def test_bad_configurations() -> None:
    """What is no configuration is none, and what is no number is not known."""
    assert {data: parse_firecracker_config(data) for data in BAD_CONFIGURATIONS} == (
        BAD_CONFIGURATIONS
    )


THREADS = {
    ("qemu", "CPU 0/KVM"): True,
    ("qemu", "CPU 127/TCG"): True,
    ("qemu", "ALL CPUs/TCG"): True,
    ("qemu", "CPU 0/DUMMY"): False,
    ("qemu", "qemu-system-x86"): False,
    ("qemu", "IO mon_iothread"): False,
    ("qemu", "fc_vcpu 0"): False,
    ("qemu", "CPU 0/KVM\n"): False,
    ("firecracker", "fc_vcpu 0"): True,
    ("firecracker", "fc_vcpu 31"): True,
    ("firecracker", "fc_api"): False,
    ("firecracker", "fc_vcpu"): False,
    ("cloud-hypervisor", "vcpu12"): True,
    ("cloud-hypervisor", "vmm"): False,
    ("xen", "CPU 0/KVM"): False,
    ("vmware", "vmx-vcpu-0"): False,
}


def test_threads_that_run_guests() -> None:
    """Only what a hypervisor is known to call its vCPUs' threads is one."""
    assert {thread: is_vcpu(*thread) for thread in THREADS} == THREADS


def test_names_are_bounded_and_visible() -> None:
    """A name may hold terminal escapes and ten thousand characters; what is shown does not."""
    machine = parse_machine(("kvm", "-name", "a\x1b[2J\u202e" + "x" * 10_000))

    assert machine is not None
    assert machine.name is not None
    assert machine.name.startswith(r"a\x1b[2J\u202exxx")
    assert len(machine.name) == 128
    assert machine.id is None
    assert bounded_name("") is None


def test_long_and_broken_command_lines() -> None:
    """One that was cut off loses what was cut; bytes that are no text do no harm."""
    name = b"guest=" + b"n" * 100
    long = b"qemu-kvm\0-uuid\0" + UUID.encode() + b"\0-name\0" + name + b"\0-append\0"
    cut = (long + b"-uuid=x" * COMMAND_LIMIT)[:COMMAND_LIMIT]
    broken = parse_machine(parse_cmdline(b"kvm\0-name\0\xff\xfe\0-uuid\0\xc3\x28\0-uuid"))

    assert shown(parse_machine(parse_cmdline(cut))) == ("qemu", UUID, "n" * 100)
    assert shown(broken) == ("qemu", None, "\ufffd\ufffd")
    assert parse_cmdline(b"") == ("",)
    assert parse_machine(parse_cmdline(b"")) is None


WORDS = st.one_of(
    st.sampled_from(["-name", "--id", "-uuid", "-smp", "-m", "--api-sock", "--", "-smbios", "="]),
    st.text(max_size=20),
)


@given(
    st.sampled_from(["kvm", "firecracker", "cloud-hypervisor", "VBoxSDL", "vmware-vmx"]),
    st.lists(WORDS),
)
def test_any_command_line_gives_a_sound_machine(program: str, words: list[str]) -> None:
    """Whatever stands on it: an id that can be one, a bounded visible name, positive sizes."""
    machine = parse_machine((program, *words))

    assert machine is not None
    assert machine.id is None or believed_id(machine.id) == machine.id
    assert (machine.id is None) == (machine.identified_by is None)
    assert machine.name is None or (len(machine.name) <= 128 and machine.name.isprintable())
    assert machine.vcpus is None or machine.vcpus > 0
    assert machine.memory_bytes is None or machine.memory_bytes > 0
