"""Questions to the machine's BMC through the kernel's IPMI driver (/dev/ipmi0, linux/ipmi.h)."""

from __future__ import annotations

import ctypes
import fcntl
import select
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tychod.clock import Clock
    from tychod.hostfs import Host

# linux/ipmi.h.
SYSTEM_INTERFACE: Final = 0x0C  # addr_type: the BMC itself
BMC_CHANNEL: Final = 0xF
RESPONSE: Final = 1  # recv_type
MAX_BYTES: Final = 272  # IPMI_MAX_MSG_LENGTH
ADDRESS_BYTES: Final = 40  # struct ipmi_addr: room for any sender's
MOST_OTHERS: Final = 64
"""Late answers and events that are thrown away while one answer is awaited."""


class _Address(ctypes.Structure):  # struct ipmi_system_interface_addr
    _fields_ = (
        ("addr_type", ctypes.c_int),
        ("channel", ctypes.c_short),
        ("lun", ctypes.c_ubyte),
    )


class _Message(ctypes.Structure):  # struct ipmi_msg
    _fields_ = (
        ("netfn", ctypes.c_ubyte),
        ("cmd", ctypes.c_ubyte),
        ("data_len", ctypes.c_ushort),
        ("data", ctypes.c_void_p),
    )


class _Request(ctypes.Structure):  # struct ipmi_req
    _fields_ = (
        ("addr", ctypes.c_void_p),
        ("addr_len", ctypes.c_uint),
        ("msgid", ctypes.c_long),
        ("msg", _Message),
    )


class _Received(ctypes.Structure):  # struct ipmi_recv
    _fields_ = (
        ("recv_type", ctypes.c_int),
        ("addr", ctypes.c_void_p),
        ("addr_len", ctypes.c_uint),
        ("msgid", ctypes.c_long),
        ("msg", _Message),
    )


def _ioctl_number(direction: int, number: int, size: int) -> int:
    """Return a request's number (asm-generic/ioctl.h: direction, size, type, number)."""
    return direction << 30 | size << 16 | ord("i") << 8 | number


# The header declares sending as a read, too.
SEND_COMMAND: Final = _ioctl_number(2, 13, ctypes.sizeof(_Request))
RECEIVE_MSG_TRUNC: Final = _ioctl_number(3, 11, ctypes.sizeof(_Received))


class NoAnswerError(OSError):
    """The BMC gave no answer in time."""


class IpmiDevice:
    """The driver's device, opened: one question at a time."""

    def __init__(self, host: Host, path: str, clock: Clock) -> None:
        """Open the device; OSError where that fails."""
        self._file = host.open_device(path)
        self._clock = clock
        self._number = 0
        self._poll = select.poll()
        self._poll.register(self._file.fileno(), select.POLLIN)

    def ask(self, netfn: int, command: int, data: bytes, timeout_s: float) -> bytes:
        """Return the answer of the BMC, its completion code first.

        NoAnswerError: none in time; another OSError: the driver refused.  An answer that comes
        later is thrown away by the next question, for it has another number.
        """
        self._number = (self._number + 1) & 0x7FFFFFFF
        end_ns = self._clock.now_ns() + round(timeout_s * 1e9)
        self._send(netfn, command, data)
        for _ in range(MOST_OTHERS):
            left_ms = max((end_ns - self._clock.now_ns()) // 1_000_000, 0)
            if not self._poll.poll(left_ms):
                break
            answer = self._receive(netfn | 1, command)
            if answer is not None:
                return answer
        raise NoAnswerError(f"no answer within {timeout_s:g} s")

    def close(self) -> None:
        """Give the device back; a second call does nothing."""
        self._file.close()

    def _send(self, netfn: int, command: int, data: bytes) -> None:
        address = _Address(SYSTEM_INTERFACE, BMC_CHANNEL, 0)
        body = ctypes.create_string_buffer(data, len(data))
        message = _Message(netfn, command, len(data), ctypes.addressof(body))
        size = ctypes.sizeof(address)
        request = _Request(ctypes.addressof(address), size, self._number, message)
        fcntl.ioctl(self._file.fileno(), SEND_COMMAND, request)

    def _receive(self, netfn: int, command: int) -> bytes | None:
        """Take one message from the queue; None if it is no answer to the last question."""
        address = ctypes.create_string_buffer(ADDRESS_BYTES)
        body = ctypes.create_string_buffer(MAX_BYTES)
        message = _Message(0, 0, MAX_BYTES, ctypes.addressof(body))
        received = _Received(0, ctypes.addressof(address), ctypes.sizeof(address), 0, message)
        try:
            fcntl.ioctl(self._file.fileno(), RECEIVE_MSG_TRUNC, received)
        except BlockingIOError:
            return None  # another reader of the same open file was faster, or it was withdrawn
        got = received.msg
        is_ours = received.recv_type == RESPONSE and received.msgid == self._number
        if not is_ours or (got.netfn, got.cmd) != (netfn, command):
            return None
        return body.raw[: min(got.data_len, MAX_BYTES)]
