"""Clients of the metrics endpoint are told apart, and none takes the share of another."""

import os
import socket
import sys
from pathlib import Path

import pytest

from tychod.runtime.http_peers import LOOPBACK, PAUSE_S, Peers, Shares, network_of

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
LINE = "%4d: %s %s %s 00000000:00000000 00:00000000 00000000 %5d        0 18421 1 0000 20 4 30\n"
OWN = ("127.0.0.1", 9102)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", LOOPBACK),
        ("127.3.2.1", LOOPBACK),
        ("::ffff:127.0.0.1", LOOPBACK),
        ("::1", LOOPBACK),
        ("2001:db8:0:1:aaaa::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:bbbb::2", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_all_addresses_of_one_host_are_one(address: str, network: str) -> None:
    """A host has all IPv6 addresses of its /64, and every user all of 127/8."""
    assert network_of(address) == network


def write_tables(procfs: Path, *lines: tuple[str, str, str, int]) -> None:
    """Write a kernel's table of connections."""
    folder = procfs / "self/net"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tcp").write_text(HEAD + "".join(LINE % (n, *told) for n, told in enumerate(lines)))


@pytest.mark.skipif(sys.byteorder != "little", reason="the table here is a little-endian one")
def test_users_of_the_host_are_told_apart(tmp_path: Path) -> None:
    """By both ends; one that is closed is nobody's, though the table says root's."""
    write_tables(
        tmp_path,
        ("0100007F:238E", "0100007F:A001", "01", 993),  # our own end
        ("0100007F:A001", "0100007F:238E", "01", 1000),
        ("0100007F:A002", "0100007F:238E", "01", 1001),
        ("0100007F:A003", "0100007F:238E", "05", 0),
        ("0100000A:A004", "0200000A:238E", "01", 1002),  # somebody else's, to another host
    )
    peers = Peers(str(tmp_path))
    found = [peers.name(("127.0.0.1", port), OWN) for port in range(0xA001, 0xA005)]

    assert found == ["user 1000", "user 1001", LOOPBACK, LOOPBACK]
    assert peers.name(("127.0.0.1", 0xA001), OWN) == LOOPBACK  # looked up once, told once
    assert 0 < peers.rest_s() <= max(PAUSE_S, 1.0)
    assert Peers(str(tmp_path / "none")).name(("127.0.0.1", 0xA001), OWN) == LOOPBACK


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_tells_whose_a_connection_is(host: str) -> None:
    """As this machine's own table has it."""
    try:
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else 2)
    except OSError as exc:
        pytest.skip(f"this machine cannot listen on {host}: {exc}")
    with listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, peer = listener.accept()
        with accepted:
            assert Peers().name(peer[:2], accepted.getsockname()[:2]) == f"user {os.getuid()}"


def test_who_asks_too_often_takes_nobody_elses_share() -> None:
    """Each has so many a second, all together a bound of their own; then a new second begins."""
    shares = Shares(each=20, together=60)
    flood = [shares.take("user 1", 5.0 + n / 1000) for n in range(300)]
    scraper = shares.take("user 2", 5.5)
    rest = [shares.take(f"10.0.0.{n}", 5.9) for n in range(100)]

    assert flood.count(True) == 20
    assert scraper
    assert rest.count(True) == 39
    assert shares.take("user 1", 6.0)
