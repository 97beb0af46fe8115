"""Machines by their hypervisors: whose they are, what they are called, who is believed."""

import itertools
from dataclasses import dataclass, field

import pytest

from tychod import views
from tychod.model import Identity
from tychod.workloads.claimed import Claims
from tychod.workloads.firework import Service
from tychod.workloads.hypervisors import Machine, parse_machine
from tychod.workloads.machines import Machines, described
from tychod.workloads.vmprocs import VmProcess

SECOND = 1_000_000_000
AGENT = Identity("unit", "agent.service", "agent.service", cgroup="/system.slice/agent.service")
POD = Identity(
    "container", "a1" * 32, "compute", namespace="vms", pod="virt-1", pod_uid="u1",
    cgroup="/kubepods/podu1/x",
)  # fmt: skip
OWN = Identity("vm", "qemu-1-web", "web", cgroup="/machine.slice/machine-qemu-1-web.scope")
PLACES = {
    AGENT.cgroup: (7, AGENT),
    POD.cgroup: (8, POD),
    OWN.cgroup: (9, OWN),
}


@dataclass
class Agent:
    """An agent that tells what a test lets it."""

    route: str = "ok"
    services: dict[int, Service] = field(default_factory=dict)

    def service_of(self, vm: VmProcess) -> Service | None:
        """Return what was set."""
        return self.services.get(vm.pid)


def machine(*argv: str) -> Machine:
    """Return the machine of a command line."""
    found = parse_machine(argv)
    assert found is not None
    return found


def firecracker(pid: int, ident: str, cgroup: str = AGENT.cgroup or "") -> VmProcess:
    """Return a Firecracker that a jailer started."""
    return VmProcess(pid, pid * 10, cgroup, machine("./firecracker", "--id", ident))


def update(machines: Machines, *processes: VmProcess, now: int = 0) -> bool:
    """Look once."""
    return machines.update(processes, PLACES.get, now)


def test_a_machine_in_a_service_is_a_leaf_of_its_own() -> None:
    """It has a key below all others, a path that no cgroup can have, and its service as parent."""
    machines = Machines()
    assert update(machines, firecracker(5, "web-1"), firecracker(6, "web-2"))

    found = {who.id: (key, who) for key, who in machines.identities.items()}
    assert set(found) == {"web-1", "web-2"}
    key, who = found["web-1"]
    assert key < -1_000 or key == -1_000
    assert (who.kind, who.runtime, who.parent, who.pid) == ("vm", "firecracker", "agent.service", 5)
    assert who.cgroup == "/system.slice/agent.service/\n5-50"
    assert views.shown_cgroup(who.cgroup) == AGENT.cgroup
    assert who.tenant == AGENT.cgroup, "whoever runs the service chooses the ids in it"
    assert machines.refs[key].path == who.cgroup
    assert len({ref.inode for ref in machines.refs.values()}) == 2
    assert [(w.vm_key, w.key) for w in machines.watched] == [(k, 7) for k in machines.identities]


def test_nothing_changed_gives_the_same_mapping() -> None:
    """Who looks often must be able to see at once that nothing came."""
    machines = Machines()
    update(machines, firecracker(5, "web-1"))
    before = machines.identities

    assert not update(machines, firecracker(5, "web-1"), now=SECOND)
    assert machines.identities is before


def test_a_machine_in_a_pod_belongs_to_the_pod() -> None:
    """It knows whose it is, so that readers find it, and its names are the pod's."""
    machines = Machines()
    update(machines, firecracker(5, "guest", POD.cgroup or ""))
    (who,) = machines.identities.values()

    assert (who.parent, who.namespace, who.pod, who.pod_uid) == (POD.id, "vms", "virt-1", "u1")


def test_a_machine_with_a_cgroup_of_its_own_has_no_key() -> None:
    """Its cgroup is the leaf; only what its guest's CPUs used is wanted."""
    machines = Machines()
    update(machines, firecracker(5, "web", OWN.cgroup or ""))

    assert machines.identities == {}
    assert [(w.vm_key, w.key) for w in machines.watched] == [(None, 9)]


def test_a_machine_waits_for_the_accounting_to_see_its_cgroup() -> None:
    """Before that nothing could be carved out of it."""
    machines = Machines()
    assert not update(machines, firecracker(5, "web", "/unseen.service"))
    assert machines.watched == ()


def test_the_agent_names_a_machine_before_its_command_line() -> None:
    """A new machine waits two seconds for the agent; an id is for ever."""
    agent = Agent()
    machines = Machines(agent)
    update(machines, firecracker(5, "i-0815"))
    assert machines.wants_agent
    assert not machines.identities

    agent.services[5] = Service("checkout", 5, 0, health="ok")
    update(machines, firecracker(5, "i-0815"), now=SECOND)
    (who,) = machines.identities.values()
    assert (who.id, who.name, who.names_from) == ("checkout", "checkout", "agent")
    assert who.labels == {"identified_by": "agent", "health": "ok"}

    agent.services.clear()  # it does not answer any more
    update(machines, firecracker(5, "i-0815"), now=2 * SECOND)
    (who,) = machines.identities.values()
    assert (who.id, who.name, who.labels["health"]) == ("checkout", "checkout", "ok")


def test_an_agent_that_is_silent_is_not_waited_for_long() -> None:
    """After two seconds the command line names the machine; later the agent changes the name."""
    agent = Agent(route="it does not answer; start it")
    machines = Machines(agent)
    update(machines, firecracker(5, "i-0815"))
    update(machines, firecracker(5, "i-0815"), now=2 * SECOND)
    (who,) = machines.identities.values()
    assert (who.id, who.names_from, who.labels["identified_by"]) == ("i-0815", "cmdline", "--id")

    agent.services[5] = Service("checkout", 5, 0)
    update(machines, firecracker(5, "i-0815"), now=3 * SECOND)
    (who,) = machines.identities.values()
    assert (who.id, who.name) == ("i-0815", "checkout")


def test_another_process_under_one_pid_is_another_machine() -> None:
    """PID reuse never inherits: start time tells them apart, and keys are never used twice."""
    machines = Machines()
    old = firecracker(5, "web")
    update(machines, old)
    update(machines, old._replace(start_ticks=99), now=SECOND)

    assert len(machines.watched) == 1
    assert len({ref.inode for ref in machines.refs.values()}) == len(machines.refs) == 2
    update(machines, old._replace(start_ticks=99), now=20 * SECOND)
    assert len(machines.refs) == 1, "one that is gone is forgotten after a while"


@pytest.mark.parametrize("ident", ["kernel", "past:x", "nginx.service", "x" * 65, "a b"])
def test_an_id_that_could_be_anothers_is_not_believed(ident: str) -> None:
    """It is then called after its process, which nobody can choose."""
    machines = Machines()
    update(machines, firecracker(5, ident))
    (who,) = machines.identities.values()

    assert who.id == "firecracker-5-50"


def test_a_command_line_reserves_nothing() -> None:
    """What it says is shown; it takes no idle energy of others: anybody may claim any size."""
    process = VmProcess(
        5, 50, AGENT.cgroup or "", machine("qemu-system-x86_64", "-smp", "2", "-m", "512")
    )
    machines = Machines()
    update(machines, process)
    (who,) = machines.identities.values()

    assert who.requests == {}
    assert (who.labels["vcpus"], who.labels["memory_bytes"]) == ("2", str(512 << 20))


def test_the_hosts_own_machine_asks_for_what_it_was_given() -> None:
    """Its cgroup is one that only the host's root makes."""
    found = described(
        OWN, VmProcess(5, 50, "", machine("qemu-system-x86_64", "-smp", "2", "-m", "512")), None
    )

    assert found.requests == {"cpu_millicores": 2000, "memory_bytes": 512 << 20}


def test_a_machine_that_moves_shows_where_it_is() -> None:
    """Its leaf stays, its slice is that of the cgroup it is in now."""
    machines = Machines()
    update(machines, firecracker(5, "web"))
    moved = firecracker(5, "web", "/system.slice/other.service")
    other = Identity("unit", "other.service", "other.service", cgroup=moved.cgroup)
    machines.update([moved], {moved.cgroup: (11, other)}.get, SECOND)
    ((key, who),) = machines.identities.items()

    assert (who.id, who.parent, machines.watched[0].key) == ("web", "other.service", 11)
    assert views.shown_cgroup(who.cgroup) == machines.refs[key].path.partition("/\n")[0]
    assert views.shown_cgroup(who.cgroup) == moved.cgroup


def test_no_key_is_used_twice_though_the_hierarchy_changes() -> None:
    """A reading of before would credit another machine."""
    keys = itertools.count(-1_000, -1)
    first, second = Machines(None, keys), Machines(None, keys)
    update(first, firecracker(5, "a"))
    update(second, firecracker(6, "b"))

    assert not first.identities.keys() & second.identities.keys()


def test_two_machines_that_claim_one_id_are_counted_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who of them is it is decided by whose tree they are in; a person hears of it once."""
    claims = Claims()
    first, second = (
        Identity("vm", "pay", "pay", cgroup=f"/{name}.service/\n{name}-1") for name in "ab"
    )
    claims.machines([first])
    claims.tell(0)
    assert claims.problems == ()

    for second_s in range(3):
        claims.machines([first, second])
        claims.tell(second_s * SECOND)
    assert claims.problems == ("1 id is claimed by two workloads, e.g. pay",)
    assert len(caplog.messages) == 1
    assert "'/a.service' and '/b.service'" in caplog.messages[0]

    claims.machines([second])
    assert claims.problems == ()
