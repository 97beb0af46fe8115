"""The real daemon as a child process on a chosen machine, asked through the real client."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

READY_S: Final = 15.0


class Node:
    """Starts, asks, kills and stops one daemon; a context manager that leaves nothing running."""

    def __init__(self, directory: Path, settings: str) -> None:
        """``settings`` is the text of tychod.toml; state and socket are in ``directory``."""
        self.directory: Final = directory
        self.config: Final = directory / "tychod.toml"
        self.socket: Final = directory / "run" / "tychod.sock"
        self.log: Final = directory / "log"
        self.config.write_text(settings)
        self.socket.parent.mkdir(exist_ok=True)
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Node":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    @property
    def pid(self) -> int:
        """Process id of the daemon."""
        return self.child.pid

    @property
    def child(self) -> subprocess.Popen[bytes]:
        """The daemon's process."""
        if self._child is None:
            raise RuntimeError("the daemon was not started")
        return self._child

    @property
    def is_started(self) -> bool:
        """Whether there is, or was, a process of it."""
        return self._child is not None

    def spawn(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a daemon process on this node's directories and do not wait for it."""
        given = {
            **{k: v for k, v in os.environ.items() if not k.startswith("TYCHOD_")},
            "STATE_DIRECTORY": str(self.directory / "state"),
            "RUNTIME_DIRECTORY": str(self.socket.parent),
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
            # A simulated machine's cgroups are not this kernel's; tests of programs ask for them.
            "TYCHOD_ACCOUNTING_LOADER": "off",
            **environment,
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tychod", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=given,
            )

    def start(self, **environment: str) -> None:
        """Start the daemon and wait until it says that it is ready."""
        seen = self.read_log().count("ready:")
        self._child = self.spawn(**environment)
        end = time.monotonic() + READY_S
        while self.read_log().count("ready:") <= seen:
            if self._child.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the daemon did not get ready:\n{self.read_log()}")
            time.sleep(0.02)

    def read_log(self) -> str:
        """Return everything the daemon has logged."""
        return self.log.read_text() if self.log.exists() else ""

    def kill(self) -> None:
        """Kill the daemon without warning."""
        self.child.kill()
        self.child.wait()

    def stop(self) -> int:
        """Stop the daemon; return its exit status."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(timeout=10)

    def tychoctl(self, *words: str, wait_s: float = 15.0) -> subprocess.CompletedProcess[str]:
        """Run the client."""
        command = [sys.executable, "-m", "tychoctl", "--socket", str(self.socket), *words]
        return subprocess.run(
            [*command, "--wait", str(wait_s)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def ask(self, *words: str) -> dict[str, Any]:
        """Return a command's JSON answer."""
        done = self.tychoctl(*words, "-o", "json")
        if done.returncode:
            raise RuntimeError(f"tychoctl {words}: {done.stderr}\n{self.read_log()}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def wait_windows(self, count: int) -> None:
        """Wait until this many further windows are complete."""
        goal = self.ask("node")["sequence"] + count
        while self.ask("node")["sequence"] < goal:
            time.sleep(0.1)
