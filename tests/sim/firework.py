"""A Firework agent's `/status` on a loopback port, with faults; standard library only."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

TOO_MUCH: Final = b" " * (2 << 20)


def service(name: str, pid: int, **changes: object) -> dict[str, object]:
    """Return a running service as the agent's statusmodel writes it."""
    told: dict[str, object] = {"name": name, "vm_state": "running", "pid": pid}
    return {**told, "health": "healthy", "network_address": "172.16.0.2/24", **changes}


def status(*services: dict[str, object], **changes: object) -> bytes:
    """Return an agent's answer; it leaves out what is empty, its list of services too."""
    told: dict[str, object] = {
        "schema_version": 1,
        "agent_version": "0.9.0",
        "node": "node-a",
        "observed_at": "2026-01-01T00:00:00Z",
        "phase": "ready",
        "applied_revision": "rev-7",
        "desired_services": len(services),
        "ready_services": len(services),
        "conditions": [{"type": "Reconciled", "status": "true"}],
    }
    if services:
        told["services"] = list(services)
    return json.dumps({**told, **changes}).encode()


class SimFirework:
    """An agent; its attributes may be changed while it runs.

    ``fault`` is one of: "" (none), "404", "500", "redirect", "slow", "drip", "half",
    "half-chunked", "hang-up", "huge", "html".
    """

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.fault = ""
        self.released = threading.Event()  # lets "slow" and "drip" end
        self.requests: list[str] = []
        self._server = _Server(("127.0.0.1", 0), self)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The agent's address, as it stands in the settings."""
        return f"http://127.0.0.1:{self.port}"


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, address: tuple[str, int], agent: SimFirework) -> None:
        self.agent = agent
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: a client that goes away is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer as an agent would, or with the fault that is set."""
        agent = self.server.agent
        agent.requests.append(self.path)
        fault = agent.fault or ("" if self.path == "/status" else "404")
        if fault in ("404", "500"):
            self._send(int(fault), b"no\n")
        elif fault == "redirect":
            self._send(302, b"", Location="http://127.0.0.1:9/status")
        elif fault == "hang-up":
            self.close_connection = True
        elif fault in ("half", "half-chunked", "drip"):
            self._send_half(fault, agent)
        else:
            if fault == "slow":
                agent.released.wait(60.0)
            body = {"huge": TOO_MUCH, "html": b"<html>hello</html>"}.get(fault, agent.answer)
            with contextlib.suppress(OSError):
                self._send(200, body)

    def _send(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_half(self, fault: str, agent: SimFirework) -> None:
        """Send the first half; then hang up, or go on byte by byte until released."""
        body = agent.answer[: len(agent.answer) // 2]
        self.close_connection = True
        self.send_response(200)
        if fault == "half-chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n" % (len(body), body)
        else:
            self.send_header("Content-Length", str(len(agent.answer)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            while fault == "drip" and not agent.released.wait(0.2):
                self.wfile.write(b" ")
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args: object) -> None:
        """Say nothing."""
