"""Looks at the GPUs in a process of its own: a driver that hangs can stop a whole process.

It may hang where no thread of ours can be ended, and in the loading of its library, when Python
lets no other thread run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Final

from tychod.clock import SystemClock
from tychod.config import Config
from tychod.doctor.children import ask
from tychod.doctor.model import Finding, Place, ok
from tychod.hostfs import Host, may_read_everything
from tychod.schema import load, to_plain

ASK_S: Final = 1.9
LIFE_S: Final = 3
"""Seconds after which the other process ends itself, should nobody be there to end it."""
PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from tychod.doctor.aside import main; sys.exit(main())"
)
ENDED: Final = "the process that looks at the GPUs ended with status {}"


def look_at_gpus(place: Place) -> Finding:
    """Let the collector of GPUs find them, aside where there is a library to load."""
    from tychod.collectors.nvml_library import library_paths
    from tychod.doctor.energy import find_source

    wanted = place.config.nvml.enabled is not False
    if not (wanted and library_paths(place.host, place.config.nvml.library)):
        return find_source("nvml")(place)
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-I", "-c", PROGRAM, root]
    status, told = ask(command, ASK_S, json.dumps(to_plain(place.config)).encode())
    return parse_finding(told, status)


def parse_finding(told: bytes, status: int) -> Finding:
    """Return what the other process found; it may have been killed by the driver's library."""
    from tychod.collectors.nvml_library import OTHER_REMEDY

    try:
        state, evidence, remedy = json.loads(told)
    except ValueError:
        return Finding("fail", ENDED.format(status), OTHER_REMEDY)
    return Finding(state, evidence, remedy)


def main() -> int:
    """Look, by the settings on standard input, and print the finding as JSON."""
    from tychod.doctor.energy import find_source

    signal.alarm(LIFE_S)  # its action is the end, in the midst of a library's call, too
    config = load(Config, json.load(sys.stdin))[0] or Config()
    reads_all = may_read_everything()
    place = Place(Host(config.host), config, SystemClock(), {}, os.geteuid(), ok(""), "", reads_all)
    sys.stdout.write(json.dumps(find_source("nvml")(place)))
    return 0
