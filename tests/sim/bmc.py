"""A BMC over real HTTPS, in two vendors' dialects, with the faults that real ones show.

``modern``: PowerSubsystem, EnvironmentMetrics, ETags, sessions.  ``legacy``: one Power document,
basic authentication, a Date that ticks, several chassis of which `Self` is the machine.  It
publishes on its own cadence from a power function of a world with known truth.
By hand: `python -m tests.sim.bmc --help`.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

from tests.sim.bmccadence import Cadence, Published, Publisher
from tests.sim.kubelet import Pair

ROOT: Final = "/redfish/v1/"
SESSIONS: Final = "/redfish/v1/SessionService/Sessions"


def make_certificate(folder: Path, address: str = "127.0.0.1") -> Pair:
    """Make a certificate that signs itself, as BMCs have it."""
    pair = Pair(folder / "bmc.crt", folder / "bmc.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=bmc"]
    command += ["-addext", f"subjectAltName=IP:{address}"]
    command += ["-keyout", str(pair.key), "-out", str(pair.cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return pair


def fingerprint(pair: Pair) -> str:
    """Return the SHA-256 of a certificate, as openssl prints it."""
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pair.cert.read_text())).hexdigest().upper()
    return ":".join(digest[i : i + 2] for i in range(0, 64, 2))


class SimBmc:
    """A server on a loopback port; its attributes may be changed while it runs.

    ``fault`` is one of: "" (none), "slow" (answers after ``slow_s``), "hang", "drip", "401", "500",
    "503", "no-sessions", "stuck" (old value, fresh ETags), "absent" (no chassis), "milliwatts",
    "kilowatts", "ones", "null", "truncated", "huge", "text", "list", "redirect", "hang-up".
    """

    def __init__(
        self,
        pair: Pair,
        power_w: Callable[[float], float] = lambda _: 200.0,
        *,
        dialect: str = "modern",
        cadence: Cadence | None = None,
        login: tuple[str, str] | None = ("reader", "secret"),
        resources: Mapping[str, object] | None = None,
        port: int = 0,
    ) -> None:
        """``resources``: documents to answer instead of a dialect's; None as login: nobody asks."""
        self.dialect = dialect
        self.login = login
        self.resources = resources
        self.fault = ""
        self.slow_s = 3.0
        self.retry_after = "7"
        self.forbidden: frozenset[str] = frozenset()  # paths that the user may not read: 403
        self.refusal = 401  # to a wrong password; HPE's iLO says 400
        self.released = threading.Event()  # lets what hangs end
        self.sessions: dict[str, str] = {}  # token -> id
        self.logins = 0  # tries
        self.requests: list[tuple[str, str]] = []  # method and path
        self.seen: list[str] = []  # everything that proved who asks
        self.publisher = Publisher(power_w, cadence or Cadence())
        self._stuck: Published | None = None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        self._server = _Server(("127.0.0.1", port), self, context)
        self.port = int(self._server.server_address[1])
        self.url = f"https://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End all connections and threads."""
        self.released.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()

    def expire_sessions(self) -> None:
        """Forget all sessions, as BMCs do after a while or when they restart."""
        self.sessions.clear()

    def newest(self) -> Published:
        """Return what stands published; stuck: the value of then under the number of now."""
        newest = self.publisher.newest()
        if self.fault != "stuck":
            self._stuck = None
            return newest
        self._stuck = self._stuck or newest
        return newest._replace(power_w=self._stuck.power_w)

    def shown_w(self) -> float | None:
        """Return what the documents say, faults of units included."""
        power_w = self.newest().power_w
        factors = {"milliwatts": 1000.0, "kilowatts": 0.001}
        special = {"ones": 65535.0, "null": None}
        return special.get(self.fault, power_w * factors.get(self.fault, 1.0))

    def document(self, path: str) -> object | None:
        """Return the document at a path, None where there is none."""
        documents = self.resources
        if documents is None:
            documents = modern(self) if self.dialect == "modern" else legacy(self)
        if self.fault == "absent" and path.startswith(f"{ROOT}Chassis/"):
            return None
        return documents.get(path) or documents.get(path + "/")

    def refused(self, path: str, headers: Mapping[str, str]) -> int:
        """Return the status that refuses a question, 0 where none does."""
        if path != ROOT and (self.fault == "401" or not self.allows(headers)):
            return 401
        return 403 if path in self.forbidden else 0

    def allows(self, headers: Mapping[str, str]) -> bool:
        """Say whether a request proves who asks."""
        if self.login is None:
            return True
        token, basic = headers.get("X-Auth-Token"), headers.get("Authorization")
        self.seen += [text for text in (token, basic) if text]
        expected = base64.b64encode(":".join(self.login).encode()).decode()
        return token in self.sessions if token else basic == f"Basic {expected}"


def modern(bmc: SimBmc) -> dict[str, object]:
    """Return the documents of a BMC with the newer schema."""
    base, watts = f"{ROOT}Chassis/1", bmc.shown_w()
    units = {"milliwatts": "mW", "kilowatts": "kW"}.get(bmc.fault, "W")
    power = {"Reading": watts, "ReadingUnits": units, "DataSourceUri": f"{base}/Sensors/TotalPower"}
    chassis = {
        "Id": "1",
        "Manufacturer": "Simulant",
        "Model": "M1",
        "EnvironmentMetrics": _link(f"{base}/EnvironmentMetrics"),
        "PowerSubsystem": _link(f"{base}/PowerSubsystem"),
        "Sensors": _link(f"{base}/Sensors"),
        "Links": {
            "ComputerSystems": [_link(f"{ROOT}Systems/1")],
            "ManagedBy": [_link(f"{ROOT}Managers/1")],
        },
    }
    backplane = {"Id": "Backplane", "Links": {"ContainedBy": _link(base)}}
    return {
        ROOT: {"Chassis": _link(f"{ROOT}Chassis"), "Links": {"Sessions": _link(SESSIONS)}},
        f"{ROOT}Chassis": _members(base, f"{ROOT}Chassis/Backplane"),
        base: chassis,
        f"{ROOT}Chassis/Backplane": backplane,
        f"{ROOT}Managers/1": {"Id": "1", "FirmwareVersion": "2.14"},
        f"{base}/EnvironmentMetrics": {"Id": "EnvironmentMetrics", "PowerWatts": power},
        f"{base}/PowerSubsystem": {"PowerSupplies": _link(f"{base}/PowerSubsystem/PowerSupplies")},
        f"{base}/PowerSubsystem/PowerSupplies": _members(),
        f"{base}/Sensors": _members(f"{base}/Sensors/TotalPower"),
        f"{base}/Sensors/TotalPower": {
            "Id": "TotalPower",
            "ReadingType": "Power",
            "ReadingUnits": units,
            "Reading": watts,
        },
    }


def legacy(bmc: SimBmc) -> dict[str, object]:
    """Return the documents of a BMC with the older schema and a second chassis beside `Self`."""
    own, other = f"{ROOT}Chassis/Self", f"{ROOT}Chassis/Bay"
    control = {"MemberId": "0", "Name": "System Power", "PowerConsumedWatts": bmc.shown_w()}
    processors = {"MemberId": "1", "PhysicalContext": "CPU", "PowerConsumedWatts": 90}
    return {
        ROOT: {"Chassis": _link(f"{ROOT}Chassis")},
        f"{ROOT}Chassis": _members(other, own),
        own: {"Id": "Self", "Power": _link(f"{own}/Power")},
        other: {"Id": "Bay", "Power": _link(f"{other}/Power")},
        f"{own}/Power": {"PowerControl": [processors, control]},
        f"{other}/Power": {"PowerControl": [{"MemberId": "0", "PowerConsumedWatts": 55}]},
    }


def _link(path: str) -> dict[str, str]:
    return {"@odata.id": path}


def _members(*paths: str) -> dict[str, object]:
    return {"Members": [_link(path) for path in paths]}


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, address: tuple[str, int], bmc: SimBmc, context: ssl.SSLContext) -> None:
        self.bmc = bmc
        self._context = context
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # A client that rejects the certificate or goes away is what the tests are about.
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(request, server_side=True) as connection,
        ):
            self._open.add(connection)
            try:
                _Handler(connection, client_address, self)
            finally:
                self._open.discard(connection)

    def hang_up(self) -> None:
        """End all connections."""
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        """Answer as a BMC would, or with the fault that is set."""
        if not self._is_cut_short("GET"):
            self._answer()

    def do_POST(self) -> None:
        """Log in."""
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"{}")
        if self._is_cut_short("POST"):
            return
        bmc = self.server.bmc
        if self.path != SESSIONS or bmc.dialect == "legacy" or bmc.fault == "no-sessions":
            self._send(404, b"{}")
            return
        bmc.logins += 1
        if bmc.fault == "401" or (body.get("UserName"), body.get("Password")) != bmc.login:
            self._send(bmc.refusal, b"{}")
            return
        token = hashlib.sha256(f"{bmc.logins}".encode()).hexdigest()
        bmc.sessions[token] = str(bmc.logins)
        location = f"{SESSIONS}/{bmc.logins}"
        self._send(201, b"{}", **{"X-Auth-Token": token, "Location": location})

    def do_DELETE(self) -> None:
        """Log out."""
        bmc = self.server.bmc
        bmc.requests.append(("DELETE", self.path))
        ended = self.path.rpartition("/")[2]
        bmc.sessions = {token: name for token, name in bmc.sessions.items() if name != ended}
        self._send(204, b"")

    def _is_cut_short(self, method: str) -> bool:
        """Do what some faults do with any request."""
        bmc = self.server.bmc
        bmc.requests.append((method, self.path))
        match bmc.fault:
            case "slow":
                bmc.released.wait(bmc.slow_s)
            case "hang":
                bmc.released.wait(60)
                self.close_connection = True
                return True
            case "hang-up":
                self.close_connection = True
                return True
            case "503":
                self._send(503, b"{}", **{"Retry-After": bmc.retry_after})
                return True
            case "500":
                self._send(500, b"{}")
                return True
            case "redirect":
                self._send(308, b"", Location="https://example.invalid/redfish/v1/")
                return True
        return False

    def _answer(self) -> None:
        bmc = self.server.bmc
        if refused := bmc.refused(self.path, dict(self.headers)):
            self._send(refused, b"{}")
            return
        document = bmc.document(self.path)
        if document is None:
            self._send(404, b"{}")
            return
        body = json.dumps(document).encode()
        etag = {"ETag": f'W/"{bmc.newest().number}"'} if bmc.dialect == "modern" else {}
        match bmc.fault:
            case "truncated":
                self._send(200, body[:9], **{"Content-Length": str(len(body))})
                self.close_connection = True
            case "huge":
                self._send(200, b" " * (4 << 20))
            case "text":
                self._send(200, b"<html>Please log in</html>")
            case "list":
                self._send(200, b"[1, 2]")
            case "drip":
                self._drip(body)
            case _:
                self._send(200, body, **etag)

    def _drip(self, body: bytes) -> None:
        """Send a byte now and then: no single wait is long, the whole never ends."""
        self._send(200, b"", **{"Content-Length": str(len(body))})
        for byte in body:
            if self.server.bmc.released.wait(0.05):
                break
            self.wfile.write(bytes((byte,)))

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing: the tests look at `requests`."""


def main(argv: Sequence[str]) -> int:
    """Be a BMC of a machine that draws a square wave, until interrupted."""
    parser = argparse.ArgumentParser(prog="bmc", description=__doc__)
    parser.add_argument("folder", type=Path, help="the certificate is made here")
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--dialect", choices=("modern", "legacy"), default="modern")
    parser.add_argument("--fault", default="")
    args = parser.parse_args(argv)
    pair = make_certificate(args.folder)
    with SimBmc(
        pair,
        lambda t_s: 260.0 if t_s % 40 < 20 else 200.0,
        dialect=args.dialect,
        cadence=Cadence(jitter_s=0.1, delay_s=1.75, boxcar_s=1.0, noise_w=2.0),
        port=args.port,
    ) as bmc:
        bmc.fault = args.fault
        print(f"{bmc.url} fingerprint {fingerprint(pair)}, user reader, password secret")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
