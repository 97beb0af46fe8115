"""Operations of the control socket: what each asks for, and the check of a request; no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from tychod.config_results import MetricNames
from tychod.frames import MAX_ARGS, MAX_COMPLAINT, ProtocolError, check_version
from tychod.schema import Dataclass, Doc, Range, load


@dataclass(frozen=True, slots=True)
class Nothing:
    """An operation without arguments."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the client says first."""

    version: Annotated[int, Range(0, 1_000_000), Doc("Protocol version of the client.")]
    client: Annotated[str, Doc("Name and version of the client, for the log.")] = ""


@dataclass(frozen=True, slots=True)
class Watch:
    """Ask for an operation's answer again and again."""

    op: Annotated[str, Doc("The operation to repeat.")]
    interval: Annotated[
        float | None, Range(0.1, 86400.0), Doc("Seconds between answers; null: every new window.")
    ] = None


@dataclass(frozen=True, slots=True)
class Record:
    """Ask for what analysis is given, as the bytes of a file."""

    seconds: Annotated[float, Range(1.0, 3600.0), Doc("How long; whole windows, at least one.")] = (
        60.0
    )


@dataclass(frozen=True, slots=True)
class Explain:
    """Ask how one workload's energy of the last window came about."""

    name: Annotated[str, Doc("NAMESPACE/NAME of a pod; else a name, an id or the begin of one.")]
    kind: Annotated[
        Literal["pod", "container", "vm", "unit", "workload"],
        Doc("What it names; workload: any leaf."),
    ] = "workload"


ReportBy = Literal["namespace", "pod", "unit", "workload", "node"]


@dataclass(frozen=True, slots=True)
class Report:
    """Ask for the energy of a stretch of time."""

    by: Annotated[ReportBy, Doc("What the energy is summed by.")] = "namespace"
    start: Annotated[
        float | None, Range(0.0, 1e11), Doc("Seconds since 1970; null: as far back as is known.")
    ] = None
    end: Annotated[float | None, Range(0.0, 1e11), Doc("Seconds since 1970; null: now.")] = None


@dataclass(frozen=True, slots=True)
class MetricsText:
    """Ask for what the metrics endpoint would serve."""

    names: Annotated[MetricNames | None, Doc("Which names; null: those of `[metrics] names`.")] = (
        None
    )
    openmetrics: Annotated[bool, Doc("OpenMetrics instead of Prometheus' text format.")] = False


class Op(NamedTuple):
    """One operation: its arguments, whether it streams and needs a first window."""

    request: type[Dataclass]
    doc: str
    stream: bool = False
    needs_window: bool = False


OPS: Final[Mapping[str, Op]] = {
    "hello": Op(Hello, "Agree on a version; answers with the daemon's."),
    "status": Op(Nothing, "Health of the daemon: accounting, counts, its own cost, problems."),
    "sources": Op(Nothing, "Health of every source, with reason and remedy where it is missing."),
    "config": Op(Nothing, "The settings in force, each with its origin."),
    "node": Op(Nothing, "Energy and power of the node by domain.", needs_window=True),
    "workloads": Op(Nothing, "Every leaf workload.", needs_window=True),
    "pods": Op(Nothing, "Pods and namespaces: sums over the leaves of each.", needs_window=True),
    "containers": Op(Nothing, "The workloads of kind container.", needs_window=True),
    "vms": Op(
        Nothing,
        "The workloads of kind vm, and the virtual machines that are views of other workloads.",
        needs_window=True,
    ),
    "units": Op(
        Nothing, "The workloads of kind unit, and slices: sums over all in each.", needs_window=True
    ),
    "gpus": Op(Nothing, "GPUs: energy, power, use, and the workloads on each.", needs_window=True),
    "processes": Op(Nothing, "Processes, each with the workload it is of.", needs_window=True),
    "explain": Op(
        Explain,
        "How one workload's or pod's energy of the last window came about; `not-found` where "
        "nothing has the name, `bad-request` where several have.",
        needs_window=True,
    ),
    "metrics": Op(
        MetricsText,
        "The text that the metrics endpoint would serve, as `text` of `content_type`; "
        "`unavailable` where an answer cannot hold it.",
        needs_window=True,
    ),
    "report": Op(
        Report,
        "Energy of a stretch of time, from the history: `rows` that add up to the node's, what was "
        "`covered`, the `gaps`, and the factors of `[report]`.",
    ),
    "trend": Op(
        Nothing,
        "Power of the node in the windows of the last ten minutes: `points` of the end of each, "
        "in seconds since 1970, and the power by domain.",
    ),
    "watch": Op(Watch, "Another operation's answer, once per window or interval.", stream=True),
    "record": Op(
        Record,
        "Raw samples, for root and `[control] admin_group`: `chunk`, the next bytes of a file for "
        "`tychoctl replay`, with `windows` and `seconds` so far.",
        stream=True,
    ),
}


class Request(NamedTuple):
    """A checked request."""

    id: int
    op: str
    args: Dataclass


def request_id(message: object) -> int:
    """Return the id of a message, or 0 when it has none that can be echoed."""
    found = message.get("id") if isinstance(message, Mapping) else None
    return found if type(found) is int and 0 <= found < 2**63 else 0


def parse_request(message: object) -> Request:
    """Check a request strictly; raise ``ProtocolError`` (bad-request) that names what is wrong."""
    if not isinstance(message, Mapping):
        raise ProtocolError("bad-request", "a request is a map of id, op and args")
    extra = set(message) - {"id", "op", "args"}
    if extra:
        raise ProtocolError(
            "bad-request", f"unknown key in request: {str(next(iter(extra)))[:80]!r}"
        )
    if type(message.get("id")) is not int or request_id(message) != message["id"]:
        raise ProtocolError("bad-request", "id must be a whole number, 0 or more")
    op = message.get("op")
    if not isinstance(op, str) or op not in OPS:
        raise ProtocolError("bad-request", f"unknown operation {str(op)[:80]!r}")
    return Request(request_id(message), op, _parse_args(op, message.get("args")))


def _parse_args(op: str, told: object) -> Dataclass:
    told = {} if told is None else told
    if isinstance(told, Mapping):
        if op == "hello":  # before the rest: another version may have other arguments
            check_version(told.get("version"), "tychoctl", "tychod")
        if len(told) > MAX_ARGS:  # each unknown one costs a search
            raise ProtocolError("bad-request", f"{op}: more than {MAX_ARGS} arguments")
    args, problems = load(OPS[op].request, told)
    if args is None:
        raise ProtocolError("bad-request", f"{op}: {problems[0]}"[:MAX_COMPLAINT])
    return args
