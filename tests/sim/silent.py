"""A host on which everything fails slowly: whoever is asked takes the question and never answers.

BMC, kubelet and metrics endpoint take connections and say nothing; so do the daemon's socket, the
system bus and pod-resources; systemctl hangs, and loading the GPU driver's library never returns.
"""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

SECRETS: Final = ("s3cr3t-password", "s3cr3t-token")
"""What the files of credentials hold, and no output may."""
SILENT: Final = ("bmc", "kubelet", "metrics", "nvml", "service", "socket", "daemon")
"""Ids of the checks that cannot be answered here; the socket's queue is full."""


class SilentHost:
    """A directory with such a host, as settings and environment for a doctor."""

    def __init__(self, base: Path) -> None:
        self.base: Final = base
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        base = self.base
        for name in ("run/systemd/system", "lib/kubelet/pod-resources", "bin", "state", "sys"):
            (base / name).mkdir(parents=True)
        (base / "state").chmod(0o700)
        self._listen(base / "lib/kubelet/pod-resources/kubelet.sock")
        self._fill(self._listen(base / "bus"), base / "bus")
        self._fill(self._listen(base / "tychod.sock"), base / "tychod.sock")
        os.mkfifo(base / "libnvidia-ml.so.1")
        program = base / "bin/systemctl"
        program.write_text("#!/bin/sh\nexec sleep 20\n")
        program.chmod(0o755)
        self._write_settings()
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._sockets:
            peer.close()

    @property
    def config(self) -> Path:
        """The settings."""
        return self.base / "tychod.toml"

    @property
    def control(self) -> Path:
        """The daemon's socket, which takes nobody."""
        return self.base / "tychod.sock"

    def environment(self) -> Mapping[str, str]:
        """Return what a doctor must find in its environment, and this process's."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("TYCHOD_")}
        return {
            **kept,
            "PATH": f"{self.base}/bin:{os.environ['PATH']}",
            "STATE_DIRECTORY": str(self.base / "state"),
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.base}/bus",
        }

    def command(self, *words: str) -> list[str]:
        """Return the command line of a doctor on this host."""
        where = ["--socket", str(self.control), "doctor", "--config", str(self.config)]
        return [sys.executable, "-m", "tychoctl", *where, *words]

    def _write_settings(self) -> None:
        base = self.base
        password, token = (base / "bmc.csv", base / "token")
        ports = [self._listen_tcp() for _ in range(3)]
        node = socket.gethostname()
        password.write_text(f"{node},reader,{SECRETS[0]},https://127.0.0.1:{ports[0]}\n")
        password.chmod(0o600)
        token.write_text(SECRETS[1])
        self.config.write_text(
            f'[host]\nsysfs = "{base}/sys"\nrun = "{base}/run"\nvar = "{base}"\n'
            f'[redfish]\ncredentials = "{password}"\ntimeout = 10.0\n'
            f'[kubelet]\nendpoint = "https://127.0.0.1:{ports[1]}"\ntoken_file = "{token}"\n'
            f"timeout = 10.0\n"
            f'[metrics]\nenabled = true\nlisten = "127.0.0.1:{ports[2]}"\n'
            f'[nvml]\nlibrary = "{base}/libnvidia-ml.so.1"\n'
        )

    def _listen(self, path: Path) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        self._sockets.append(server)
        server.bind(str(path))
        server.listen(0)
        return server

    def _fill(self, server: socket.socket, path: Path) -> None:
        """Take the only place in a queue: who connects next waits in the kernel."""
        waiting = socket.socket(server.family)
        self._sockets.append(waiting)
        waiting.connect(str(path))

    def _listen_tcp(self) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        self._sockets.append(server)
        port: int = server.getsockname()[1]
        return port
