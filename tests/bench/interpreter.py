"""Which Python the daemon runs on in benchmarks: the distribution's, as the packages do."""

import subprocess
import sys
from functools import cache
from typing import Final

PACKAGED: Final = "/usr/bin/python3"
LIBRARIES: Final = ("numpy", "msgpack", "requests", "sdnotify", "tomli_w")


@cache
def daemon_python() -> tuple[str, str]:
    """Return ``(interpreter, its description)``; the virtual environment's where libraries lack."""
    asked = f"import {', '.join(LIBRARIES)}; print(numpy.__version__)"
    done = subprocess.run([PACKAGED, "-c", asked], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return (
            PACKAGED,
            f"{PACKAGED} with the distribution's libraries (numpy {done.stdout.strip()})",
        )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    return sys.executable, (
        f".venv (numpy {done.stdout.strip()}): the distribution's libraries are not installed"
    )
