"""A system bus with systemd on it, as far as reading unit properties goes; standard library only.

It speaks the D-Bus wire protocol (dbus.freedesktop.org/doc/dbus-specification.html), little-endian
only, to clients of one Unix socket.  Faults: what a bus that is ill does.
"""

import contextlib
import io
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import Final, Self

CALL, RETURN, ERROR = 1, 2, 3
PATH_FIELD, INTERFACE_FIELD, MEMBER_FIELD, ERROR_FIELD, REPLY_FIELD = 1, 2, 3, 4, 5
DESTINATION_FIELD, SENDER_FIELD, SIGNATURE_FIELD = 6, 7, 8
SIGNATURES: Final = {PATH_FIELD: "o", REPLY_FIELD: "u", SIGNATURE_FIELD: "g"}
PREFIX: Final = "/org/freedesktop/systemd1/unit/"
NO_UNIT: Final = "org.freedesktop.systemd1.NoSuchUnit"

Properties = Mapping[str, str]
"""Property -> value, of one unit."""


def make_unit(
    description: str, in_slice: str = "system.slice", state: str = "loaded"
) -> Properties:
    """Return a unit's properties as systemd has them."""
    return {"Description": description, "Slice": in_slice, "LoadState": state}


class SimBus:
    """A bus at a socket; `fault`: hang | refuse | die | "" and may be changed at any time.

    hang: connections are taken and never served; refuse: no connection is authenticated; die: the
    connection is closed instead of the next answer.
    """

    def __init__(self, path: str, units: Mapping[str, Properties]) -> None:
        self.units = dict(units)
        self.fault = ""
        self.hang_on = ""  # a unit about which systemd never answers
        self.asked: list[str] = []  # unit and property of each question
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(8)
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="sim-bus")]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    @property
    def connections(self) -> int:
        """How many clients have connected."""
        return len(self._clients)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                thread = threading.Thread(target=self._serve, args=(client,), name="sim-bus-client")
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), client, client.makefile("rwb") as stream:
            if self.fault == "hang":
                stream.read()  # until the other side goes
            if self.fault == "refuse":
                stream.write(b"REJECTED EXTERNAL\r\n")
                return
            _authenticate(stream)
            for serial, fields, body in _read_calls(stream):
                if self.fault == "hang" or (unit_of(fields) or "-") == self.hang_on:
                    stream.read()
                if self.fault == "die":
                    return
                stream.write(self._answer(serial, fields, body))
                stream.flush()

    def _answer(self, serial: int, fields: Mapping[int, str], body: bytes) -> bytes:
        if fields.get(MEMBER_FIELD) == "Hello":
            return render_reply(serial, "s", _string(":1.7"))
        unit = unit_of(fields)
        interface, used = _parse_string(body, 0)
        name, _ = _parse_string(body, _aligned(used, 4))
        self.asked.append(f"{unit} {interface} {name}")
        value = self.units.get(unit, {}).get(name)
        if value is None:
            return render_reply(serial, "s", _string(f"no {unit}"), error=NO_UNIT)
        variant = b"\x01s\x00" + b"\x00" + _string(value)  # padded to the string's 4 bytes
        return render_reply(serial, "v", variant)


def unit_of(fields: Mapping[int, str]) -> str:
    """Return the unit that a call's object path means."""
    label = fields.get(PATH_FIELD, "").removeprefix(PREFIX)
    return re.sub("_([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), label)


def render_reply(serial: int, signature: str, body: bytes, error: str = "") -> bytes:
    """Return the answer to the call with this serial number."""
    fields: list[tuple[int, str | int]] = [(REPLY_FIELD, serial), (SIGNATURE_FIELD, signature)]
    fields += [(DESTINATION_FIELD, ":1.7"), (SENDER_FIELD, "org.freedesktop.DBus")]
    fields += [(ERROR_FIELD, error)] if error else []
    array = b""
    for number, value in fields:
        array += bytes(_aligned(len(array), 8) - len(array))
        code = SIGNATURES.get(number, "s")
        array += bytes((number, 1)) + code.encode() + b"\x00"
        array += _value(code, value)
    head = struct.pack("<BBBBIII", ord("l"), ERROR if error else RETURN, 1, 1, len(body), 9, 0)
    head = head[:-4] + struct.pack("<I", len(array)) + array
    return head + bytes(_aligned(len(head), 8) - len(head)) + body


def _authenticate(stream: io.BufferedRWPair) -> None:
    for line in iter(stream.readline, b""):
        command = line.lstrip(b"\x00").strip()
        if command == b"BEGIN":
            return
        answer = {b"DATA": b"OK 0123456789abcdef0123456789abcdef"}.get(command)
        if command.startswith(b"AUTH"):
            answer = b"DATA"
        if command == b"NEGOTIATE_UNIX_FD":
            answer = b"AGREE_UNIX_FD"
        stream.write((answer or b"ERROR") + b"\r\n")
        stream.flush()
    raise EOFError


def _read_calls(stream: io.BufferedRWPair) -> Iterator[tuple[int, dict[int, str], bytes]]:
    while len(head := stream.read(16)) == 16:
        length, serial, fields_length = struct.unpack("<4xIII", head)
        fields = stream.read(_aligned(fields_length, 8))
        yield serial, dict(_parse_fields(fields[:fields_length])), stream.read(length)


def _parse_fields(data: bytes) -> Iterator[tuple[int, str]]:
    at = 0
    while at < len(data):
        at = _aligned(at, 8)
        number, code = data[at], data[at + 2 : at + 3]
        if code in (b"s", b"o"):
            value, at = _parse_string(data, at + 4)
            yield number, value
        elif code == b"g":
            at += 4 + 1 + data[at + 4] + 1
        else:
            at += 8


def _parse_string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + length].decode(), at + 4 + length + 1


def _value(code: str, value: str | int) -> bytes:
    if isinstance(value, int):
        return struct.pack("<I", value)
    if code == "g":
        return bytes((len(value),)) + value.encode() + b"\x00"
    return _string(value)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data + b"\x00"


def _aligned(size: int, to: int) -> int:
    return -(-size // to) * to
