"""Settings of what is done with results: who may read them, where they are kept and shown.

A part of ``tychod.config``, which says how settings are declared.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from tychod.schema import Doc, Range, Restart

Level = Literal["node", "pod", "container", "vm", "unit", "process", "gpu"]
MetricNames = Literal["tycho", "kepler"]
LEAST_INTERVAL_S: Final = 1.0
"""Nobody but root and the admin group may see energy at shorter steps.

Fast readings of RAPL tell secrets of other programs (PLATYPUS, CVE-2020-8694); the attacks need
steps of milliseconds.
"""


@dataclass(frozen=True, slots=True)
class Control:
    """The control socket."""

    socket: Annotated[
        str,
        Restart(),
        Doc("Path; empty: $RUNTIME_DIRECTORY/tychod.sock, else /run/tychod/tychod.sock."),
    ] = ""
    group: Annotated[
        str, Restart(), Doc("Group that may connect; empty: the daemon's own group.")
    ] = ""
    admin_group: Annotated[
        str,
        Restart(),
        Doc(
            "Group whose members may have recordings and whatever is finer than a window; "
            "empty: root only."
        ),
    ] = ""
    min_interval: Annotated[
        float,
        Range(LEAST_INTERVAL_S, 3600.0),
        Doc(
            "Least seconds between two results for readers that are neither root nor in "
            "admin_group, and for the metrics endpoint."
        ),
    ] = LEAST_INTERVAL_S


@dataclass(frozen=True, slots=True)
class Metrics:
    """The Prometheus endpoint; `tychoctl metrics` prints the same without it."""

    enabled: Annotated[bool, Restart(), Doc("Serve /metrics over HTTP.")] = False
    listen: Annotated[
        str,
        Restart(),
        Doc(
            'Address and port, as "127.0.0.1:9102" or "[::]:9102"; others than loopback need TLS '
            "or `insecure`."
        ),
    ] = "127.0.0.1:9102"
    names: Annotated[
        MetricNames,
        Doc('"tycho": names of our own; "kepler": those of Kepler, for dashboards that exist.'),
    ] = "tycho"
    levels: Annotated[
        tuple[Level, ...], Doc("What has metrics; processes need [accounting] processes, too.")
    ] = ("node", "pod", "container", "vm", "unit", "gpu")
    max_series: Annotated[
        int,
        Range(100, 1_000_000),
        Doc("Most series of one scrape; what is left out, and how much, is told in the scrape."),
    ] = 20_000
    energy_quantum: Annotated[
        float,
        Range(0.001, 10.0),
        Restart(),
        Doc(
            "Joules that energies are rounded down to; with a larger one counters begin lower once."
        ),
    ] = 0.01
    tls_cert_file: Annotated[
        str, Restart(), Doc("Certificate chain (PEM) to serve HTTPS with; empty: HTTP.")
    ] = ""
    tls_key_file: Annotated[
        str, Restart(), Doc("Its private key; empty: the systemd credential metrics-key.")
    ] = ""
    client_ca_file: Annotated[
        str, Restart(), Doc("CA that scrapers' certificates must be signed by; empty: none asked.")
    ] = ""
    users_file: Annotated[
        str,
        Restart(),
        Doc(
            "File of user:hash lines (`tychod --hash-password`) for basic authentication; empty: "
            "the systemd credential metrics-users, if there is one."
        ),
    ] = ""
    insecure: Annotated[
        bool, Restart(), Doc("Allow plain HTTP on an address that others can reach.")
    ] = False


@dataclass(frozen=True, slots=True)
class History:
    """What `tychoctl report` looks back on: running totals, kept in memory and on disk."""

    interval: Annotated[
        float, Range(10.0, 3600.0), Restart(), Doc("Seconds between two records.")
    ] = 60.0
    memory: Annotated[
        float,
        Range(600.0, 86400.0),
        Restart(),
        Doc("Seconds of records kept in memory, 16 MB at most."),
    ] = 7200.0
    days: Annotated[
        int,
        Range(0, 366),
        Restart(),
        Doc("Days of records kept in the state directory; 0: memory alone."),
    ] = 7
    max_bytes: Annotated[
        int,
        Range(1_000_000, 100_000_000_000),
        Restart(),
        Doc("Most bytes of them; oldest go first."),
    ] = 200_000_000


@dataclass(frozen=True, slots=True)
class Report:
    """What energy costs and emits, for `tychoctl report`; nothing is ever asked of the network."""

    currency: Annotated[str, Doc("Currency of the price.")] = "EUR"
    price_per_kwh: Annotated[
        float, Range(0.0, 1000.0), Doc("Price of a kilowatt-hour; 0: costs are not shown.")
    ] = 0.0
    price_origin: Annotated[str, Doc("Where the price is from, printed beside it.")] = ""
    price_date: Annotated[str, Doc("Its date, as 2026-01-31.")] = ""
    carbon_g_per_kwh: Annotated[
        float,
        Range(0.0, 10_000.0),
        Doc("Grams of CO2 equivalent for a kilowatt-hour; 0: emissions are not shown."),
    ] = 0.0
    carbon_origin: Annotated[str, Doc("Where that is from, printed beside it.")] = ""
    carbon_date: Annotated[str, Doc("Its date, as 2026-01-31.")] = ""


@dataclass(frozen=True, slots=True)
class Log:
    """The log."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Doc("Least level that is written.")
    ] = "info"
    target: Annotated[
        Literal["auto", "journal", "stderr"],
        Restart(),
        Doc('"auto": the journal when systemd started us, else standard error.'),
    ] = "auto"
