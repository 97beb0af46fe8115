"""Whom a client of the metrics endpoint counts as, and how many connections each may begin.

By loopback all users of a host come from one address.  There the kernel's table of connections
says whose each is, so that no user takes the places of another's scraper.
"""

import ipaddress
import sys
import time
from collections.abc import Iterable
from typing import Final

from tychod import config
from tychod.hostfs import Host

LOOPBACK: Final = "loopback"
"""Who came from this host and cannot be told apart: its end is closed, or came after the look."""
TABLES: Final = ("self/net/tcp", "self/net/tcp6")
MAX_TABLE_BYTES: Final = 8 << 20  # some 50 000 connections
PAUSE_S: Final = 0.1  # least time between two looks
REST: Final = 10  # times as long as it took is rested after it: that takes a tenth at most
MOST_REST_S: Final = 1.0
IPV6_SITE: Final = 64  # bits; one host has all addresses below them
USER: Final = 7  # which column
End = tuple[str, int]
"""An address and a port."""


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of a peer, an IPv4 one as such however the socket shows it."""
    found = ipaddress.ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def network_of(text: str) -> str:
    """Return what all addresses that one host may come from have in common."""
    address = address_of(text)
    if address.is_loopback:
        return LOOPBACK
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, IPV6_SITE), strict=False))


class Peers:
    """Tells clients apart; called by the thread that accepts."""

    def __init__(self, procfs: str = "") -> None:
        """``procfs``: of our own connections, wherever the settings say that the host's is."""
        self._host = Host(config.Host(procfs=procfs) if procfs else config.Host())
        self._users: dict[bytes, str] = {}
        self._next_s = 0.0

    def name(self, peer: End, own: End) -> str:
        """Return whom the other end counts as: a network, or a user of this host."""
        network = network_of(peer[0])
        if network != LOOPBACK:
            return network
        ends = b"%b %b" % (_shown(peer), _shown(own))
        if ends not in self._users and self.rest_s() <= 0.0:
            self._look(own[1])
        return self._users.pop(ends, LOOPBACK)  # once: the next one by this port may be another's

    def rest_s(self) -> float:
        """Return in how many seconds the table may be looked at again."""
        return self._next_s - time.monotonic()

    def _look(self, port: int) -> None:
        begun_s = time.monotonic()
        self._users = {}
        for name in TABLES:
            try:
                table = self._host.read_bytes(f"{self._host.procfs}/{name}", MAX_TABLE_BYTES)
            except OSError:
                continue  # all users of this host then count as one
            self._users.update(_owners(table or b"", port))
        end_s = time.monotonic()
        self._next_s = end_s + min(max(PAUSE_S, REST * (end_s - begun_s)), MOST_REST_S)


def _owners(table: bytes, port: int) -> Iterable[tuple[bytes, str]]:
    """Yield whose the connections to a port are, by both their ends."""
    wanted, at = b":%04X 01 " % port, 0  # 01: established; of a closed end the user is not told
    while (at := table.find(wanted, at) + 1) > 0:  # not line by line: most are others', or closed
        line = table[table.rfind(b"\n", 0, at) + 1 : at + len(wanted) + 100].split(None, 8)
        if len(line) > USER:
            yield b"%b %b" % (line[1], line[2]), f"user {line[USER].decode()}"


def _shown(end: End) -> bytes:
    """Return an end as the kernel prints it: words of the address as this machine reads them."""
    packed = address_of(end[0]).packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    text = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
    return f"{text}:{end[1]:04X}".encode()


class Shares:
    """Counts the connections of a second; called by the thread that accepts."""

    def __init__(self, each: int, together: int) -> None:
        self._each = each
        self._together = together
        self._second_s = 0.0
        self._taken: dict[str, int] = {}

    def take(self, name: str, now_s: float) -> bool:
        """Say whether one more connection of this client is within its share."""
        if now_s - self._second_s >= 1.0:
            self._second_s, self._taken = now_s, {}
        had = self._taken.get(name, 0)
        if had >= self._each or sum(self._taken.values()) >= self._together:
            return False
        self._taken[name] = had + 1
        return True
