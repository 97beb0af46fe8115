"""A kubelet's `/pods` over real TLS, with the faults that real ones show; standard library only.

Certificates are made by the `openssl` command.  By hand: `python -m tests.sim.kubelet --help`.
"""

import argparse
import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

NODE: Final = "node-a"
EMPTY: Final = b'{"kind":"PodList","apiVersion":"v1","metadata":{},"items":null}\n'
"""What a kubelet without pods answers, also for a moment after its start."""

FORBIDDEN: Final = (
    b"Forbidden (user=meter, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"
)


class Pair(NamedTuple):
    """A certificate and its key, both PEM files."""

    cert: Path
    key: Path


def make_ca(folder: Path, name: str) -> Pair:
    """Make a certificate authority."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    _openssl(pair, name, "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
    return pair


def issue(folder: Path, ca: Pair, name: str, usage: str = "serverAuth") -> Pair:
    """Let a CA issue a certificate for one DNS name, as a kubelet's has it: no address in it."""
    pair = Pair(folder / f"{ca.cert.stem}-{name}-{usage}.crt", folder / f"{name}-{usage}.key")
    extensions = (
        f"subjectAltName=DNS:{name}",
        f"extendedKeyUsage={usage}",
        "basicConstraints=critical,CA:FALSE",
    )
    _openssl(pair, name, *extensions, ca=ca)
    return pair


def issue_dated(folder: Path, ca: Pair, name: str, first: str, last: str) -> Pair:
    """Let a CA issue a serving certificate that is good between two dates (YYYYMMDD)."""
    stem = folder / f"{name}-{first}"
    pair, request = Pair(stem.with_suffix(".crt"), stem.with_suffix(".key")), f"{stem}.csr"
    settings, issued = Path(f"{stem}.cnf"), Path(f"{stem}.db")
    issued.touch()
    settings.write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={issued}\nnew_certs_dir={folder}\n"
        "rand_serial=yes\ndefault_md=sha256\npolicy=any\nx509_extensions=serving\n"
        f"[any]\ncommonName=supplied\n[serving]\nsubjectAltName=DNS:{name}\n"
    )
    command = ["openssl", "req", "-new", "-newkey", "ec", "-nodes", "-subj", f"/CN={name}"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(pair.key)]
    _run([*command, "-out", request])
    command = ["openssl", "ca", "-batch", "-notext", "-config", str(settings), "-in", request]
    command += ["-cert", str(ca.cert), "-keyfile", str(ca.key), "-out", str(pair.cert)]
    _run([*command, "-startdate", f"{first}000000Z", "-enddate", f"{last}000000Z"])
    return pair


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _openssl(pair: Pair, name: str, *extensions: str, ca: Pair | None = None) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", f"/CN={name}"]
    command += ["-keyout", str(pair.key), "-out", str(pair.cert)]
    command += [part for extension in extensions for part in ("-addext", extension)]
    if ca:
        command += ["-CA", str(ca.cert), "-CAkey", str(ca.key)]
    _run(command)


def pod(
    name: str,
    uid: str,
    containers: Mapping[str, str],
    namespace: str = "shop",
    **metadata: object,
) -> dict[str, object]:
    """Return a running pod; ``containers`` maps container names to runtime ids."""
    statuses = [
        {"name": c, "containerID": f"containerd://{ident}", "state": {"running": {}}}
        for c, ident in containers.items()
    ]
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": uid, **metadata},
        "spec": {"containers": [{"name": c} for c in containers]},
        "status": {
            "phase": "Running",
            "qosClass": "Burstable",
            "containerStatuses": statuses,
        },
    }


def pod_list(*pods: Mapping[str, object]) -> bytes:
    """Return a PodList as the kubelet writes it."""
    return json.dumps({"kind": "PodList", "apiVersion": "v1", "items": list(pods)}).encode()


class SimKubelet:
    """A server on a loopback port; its attributes may be changed while it runs.

    ``fault`` is one of: "" (none), "401", "403", "500", "redirect", "slow", "drip", "half",
    "half-chunked", "huge", "hang-up".
    """

    def __init__(
        self,
        pods: bytes,
        pair: Pair | None = None,  # None: plain HTTP, the read-only port
        token: str | None = None,
        client_ca: Path | None = None,
        port: int = 0,
    ) -> None:
        self.pods = pods
        self.token = token
        self.client_ca = client_ca
        self.fault = ""
        self.released = threading.Event()  # lets "slow" and "drip" end
        self.requests: list[tuple[str, str | None]] = []  # path, Authorization
        self.connections = 0
        self._context = self._tls(pair) if pair else None
        self._server = _Server(("127.0.0.1", port), self)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Address, by number: the certificate holds the node's name only."""
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    def replace_certificate(self, pair: Pair) -> None:
        """Serve another certificate from the next connection on, and end the present ones."""
        self._context = self._tls(pair)
        self._server.hang_up()

    def _tls(self, pair: Pair) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        if self.client_ca:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    @contextlib.contextmanager
    def secured(self, connection: socket.socket) -> Iterator[socket.socket]:
        """Do the handshake of one connection, in its own thread."""
        self.connections += 1
        if self._context is None:
            yield connection
            return
        with self._context.wrap_socket(connection, server_side=True) as secured:
            yield secured

    def allows(self, authorization: str | None, connection: socket.socket) -> bool:
        """Say whether a request shows the credential that is asked for."""
        if self.client_ca and isinstance(connection, ssl.SSLSocket):
            return bool(connection.getpeercert())
        return self.token is None or authorization == f"Bearer {self.token}"


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, address: tuple[str, int], kubelet: SimKubelet) -> None:
        self.kubelet = kubelet
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # A client that rejects the certificate or goes away is what the tests are about.
        with contextlib.suppress(OSError), self.kubelet.secured(request) as connection:
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
        """Answer as a kubelet would, or with the fault that is set."""
        kubelet = self.server.kubelet
        authorization = self.headers.get("Authorization")
        kubelet.requests.append((self.path, authorization))
        if self.path != "/pods":
            self._send(404, b"404 page not found\n")
        elif kubelet.fault == "403":
            self._send(403, FORBIDDEN)
        elif kubelet.fault == "500":
            self._send(500, b"Authorization error (user=meter, verb=get)\n")
        elif kubelet.fault == "401" or not kubelet.allows(authorization, self.connection):
            self._send(401, b"Unauthorized\n")
        else:
            self._send_pods(kubelet)

    def _send_pods(self, kubelet: SimKubelet) -> None:
        body = kubelet.pods
        match kubelet.fault:
            case "hang-up":
                self.close_connection = True
            case "redirect":
                self._send(307, b"", Location="https://example.invalid/pods")
            case "slow":
                kubelet.released.wait(30)
                self._send(200, body)
            case "drip":
                self._drip(kubelet, body)
            case "half":
                self._send(200, body[: len(body) // 2], **{"Content-Length": str(len(body))})
                self.close_connection = True
            case "half-chunked":
                self._send(
                    200, b"%x\r\n" % len(body) + body[:20], **{"Transfer-Encoding": "chunked"}
                )
                self.close_connection = True
            case "huge":
                self._send(200, b" " * (65 << 20))
            case _:
                self._send(200, body)

    def _drip(self, kubelet: SimKubelet, body: bytes) -> None:
        """Send a byte now and then: no single wait is long, the whole never ends."""
        self._send(200, b"", **{"Content-Length": str(len(body))})
        for byte in body:
            if kubelet.released.wait(0.05):
                break
            self.wfile.write(bytes((byte,)))

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        if "Transfer-Encoding" not in headers:
            headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing: the tests look at `requests`."""


def main(argv: Sequence[str]) -> int:
    """Serve one file as `/pods` until interrupted."""
    parser = argparse.ArgumentParser(prog="kubelet", description=__doc__)
    parser.add_argument("pods", type=Path, help="a PodList in JSON")
    parser.add_argument("folder", type=Path, help="certificates are made here")
    parser.add_argument("--port", type=int, default=10250)
    parser.add_argument("--token")
    parser.add_argument("--node", default=NODE)
    parser.add_argument("--fault", default="")
    args = parser.parse_args(argv)
    ca = make_ca(args.folder, "ca")
    pair = issue(args.folder, ca, args.node)
    with SimKubelet(args.pods.read_bytes(), pair, token=args.token, port=args.port) as kubelet:
        kubelet.fault = args.fault
        print(f"{kubelet.url} node name {args.node}, CA {ca.cert}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
