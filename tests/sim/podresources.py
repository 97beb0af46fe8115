"""The kubelet's pod-resources socket: the right answer over HTTP/2, by hand or by grpcio, or worse.

By hand: `python -m tests.sim.podresources --socket PATH --file ANSWER` (`--grpcio`: by that
library, which then is the witness that the client speaks gRPC).
"""

import argparse
import contextlib
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

METHOD: Final = "/v1.PodResourcesLister/List"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
ACK, END_STREAM, END_HEADERS, PADDED = 1, 1, 4, 8
PREFACE_BYTES: Final = 24

Listing = Mapping[tuple[str, str, str], Mapping[str, tuple[str, ...]]]
"""(namespace, pod, container) -> resource -> device ids."""
Script = Callable[[socket.socket], None]


def render_listing(listing: Listing) -> bytes:
    """Return a ListPodResourcesResponse; one pod per container, one entry per resource."""
    return b"".join(
        field(1, field(1, pod) + field(2, namespace) + field(3, _container(name, devices)))
        for (namespace, pod, name), devices in listing.items()
    )


def _container(name: str, devices: Mapping[str, tuple[str, ...]]) -> bytes:
    entries = (
        field(2, field(1, resource) + b"".join(field(2, each) for each in ids))
        for resource, ids in devices.items()
    )
    return field(1, name) + b"".join(entries)


def field(number: int, content: str | bytes) -> bytes:
    """Return a protobuf field that has bytes."""
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """Return a protobuf number."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


def frame(kind: int, flags: int = 0, stream: int = 1, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(data: bytes) -> bytes:
    """Return a gRPC message, not compressed."""
    return struct.pack(">BI", 0, len(data)) + data


def answer(data: bytes) -> bytes:
    """Return the frames of a good answer; its headers hold static table entries only."""
    whole = message(data)
    parts = [frame(DATA, 0, 1, whole[at : at + 16384]) for at in range(0, len(whole), 16384)]
    opening = frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0) + frame(HEADERS, END_HEADERS, 1, OK)
    return opening + b"".join(parts) + frame(HEADERS, END_HEADERS | END_STREAM, 1, OK)


OK: Final = b"\x88"
""":status 200, from the static table."""


def says(data: bytes) -> Script:
    """Return a server that sends these bytes once it has been asked, and waits for the end."""

    def run(client: socket.socket) -> None:
        read_request(client)
        client.sendall(data)
        while client.recv(1 << 16):
            pass

    return run


def read_request(client: socket.socket) -> None:
    """Read the preface and frames up to the end of a request; OSError where it does not come."""
    _read(client, PREFACE_BYTES)
    kind = flags = 0
    while (kind, flags & END_STREAM) != (DATA, END_STREAM):
        head = _read(client, 9)
        kind, flags = head[3], head[4]
        _read(client, int.from_bytes(head[:3], "big"))


def _read(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = client.recv(count - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def says_for_ever(data: bytes, opening: bytes = b"") -> Script:
    """Return a server that never stops sending the same bytes; what it hears it throws away."""

    def run(client: socket.socket) -> None:
        client.sendall(opening)
        while True:
            client.sendall(data)
            with contextlib.suppress(BlockingIOError):
                client.recv(1 << 16, socket.MSG_DONTWAIT)

    return run


class SimPodResources:
    """A socket at which each client meets the script, one after the other."""

    def __init__(self, path: Path, script: Script) -> None:
        self.script = script
        self.calls = 0
        self._clients: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve, name="sim-pod-resources")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                self.calls += 1
                with contextlib.suppress(OSError), client:
                    self.script(client)


def serve_by_grpcio(path: str, read: Callable[[], bytes]) -> None:
    """Serve by grpcio until standard input ends; an answer of `!CODE` is that gRPC error."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    def reply(request: bytes, context: grpc.ServicerContext) -> bytes:
        data = read()
        if request:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a List has no fields")
        if data.startswith(b"!"):
            context.abort(grpc.StatusCode[data[1:].decode()], "told to")
        return data

    service, method = METHOD.strip("/").split("/")
    calls = {method: grpc.unary_unary_rpc_method_handler(reply)}
    server = grpc.server(
        ThreadPoolExecutor(1), options=[("grpc.max_send_message_length", 64 << 20)]
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, calls),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    server.stop(None)


def main() -> None:
    """Serve the content of a file, read for each call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--file", type=Path, required=True, help="a ListPodResourcesResponse")
    parser.add_argument("--grpcio", action="store_true")
    options = parser.parse_args()
    if options.grpcio:
        serve_by_grpcio(options.socket, options.file.read_bytes)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(options.socket)  # noqa: PTH108 - its own, from an earlier run

    def run(client: socket.socket) -> None:
        says(answer(options.file.read_bytes()))(client)

    with SimPodResources(Path(options.socket), run):
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
