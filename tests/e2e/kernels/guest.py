"""The first process of a guest: `python3 -m tests.e2e.kernels.guest`; checks, and powers off.

The last line on the console is `guest: done, N failed`: without it the run did not come to its end.
"""

import ctypes
import os
import time
from pathlib import Path
from typing import Final

from tests.e2e.kernels.checks import STEPS, Guest
from tests.e2e.steps import run_steps, say

MOUNTS: Final = (
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("tmpfs", "/sys/fs/cgroup", ""),
    ("cgroup2", "/sys/fs/cgroup/unified", ""),
    ("cgroup", "/sys/fs/cgroup/cpuacct", "cpuacct"),
)
POWER_OFF: Final = 0x4321FEDC  # LINUX_REBOOT_CMD_POWER_OFF


def main() -> None:
    """Make a machine of it, run the steps, switch it off."""
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, place, options in MOUNTS:
        Path(place).mkdir(exist_ok=True)
        if libc.mount(b"none", place.encode(), kind.encode(), 0, options.encode()):
            say(f"guest: no {kind} at {place}: {os.strerror(ctypes.get_errno())}")
    say(f"guest: ready after {time.monotonic():.1f} s")
    failed = run_steps(STEPS, Guest(hz=int(os.environ["TYCHOD_HZ"])))
    say(f"guest: done, {failed} failed")
    libc.reboot(POWER_OFF)


if __name__ == "__main__":
    main()
