"""`tychoctl metrics`: what a Prometheus server would read from tychod, without any port."""

import argparse
from typing import Final

from tychoctl import output
from tychoctl.client import Connection, Failure, socket_path
from tychoctl.options import Options
from tychoctl.run import patiently

NAMES: Final = ("tycho", "kepler")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare which metrics, and in which format."""
    parser.add_argument(
        "--names",
        choices=NAMES,
        metavar="NAMES",
        help=f"{' or '.join(NAMES)}: whose names the metrics have (default: [metrics] names)",
    )
    parser.add_argument(
        "--openmetrics",
        action="store_true",
        help="OpenMetrics, which tells when counters began, instead of Prometheus' text format",
    )


def run(options: Options) -> int:
    """Print the text as it is; return the exit code."""
    path = socket_path(options.socket)

    def once() -> object:
        with Connection(path) as connection:
            told = {"names": options.names, "openmetrics": options.openmetrics}
            return connection.call("metrics", told).get("text")

    text = patiently(once, path, options.wait)
    if not isinstance(text, str):
        raise Failure("internal", "tychod's answer to metrics has no text")
    output.write(text)
    return 0
