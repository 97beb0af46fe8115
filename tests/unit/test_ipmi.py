"""DCMI power readings: what an answer says, and what of it can be true."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.hosts.trees import SECOND, SetClock, host_config
from tychod.collectors import ipmi
from tychod.collectors.base import Unavailable
from tychod.config import Config, Ipmi
from tychod.hostfs import Host

if TYPE_CHECKING:
    from pathlib import Path

# 430 W now, 29 to 615, mean 388, over 1 s, active.
ANSWER = bytes.fromhex("00 dc ae01 1d00 6702 8401 00000000 e8030000 40")


def test_reading_is_parsed() -> None:
    """Watts, the period of the statistics, and the state bit are where DCMI puts them."""
    assert ipmi.parse_reading(ANSWER) == ipmi.Reading(430, 1.0, is_active=True)
    assert ipmi.parse_reading(ANSWER + b"more") == ipmi.Reading(430, 1.0, is_active=True)


def test_short_answers_are_refused() -> None:
    """No answer that ends early is taken for a reading."""
    for length in range(len(ANSWER)):
        with pytest.raises(ValueError, match="BMC"):
            ipmi.parse_reading(ANSWER[:length])


def test_completion_codes_are_told() -> None:
    """Each completion code is a reason that names it, whatever follows it."""
    for code in range(1, 256):
        with pytest.raises(ValueError, match=f"0x{code:02X}"):
            ipmi.parse_reading(bytes((code,)) + ANSWER[1:])


@pytest.mark.parametrize(
    ("watts", "is_active", "is_true"),
    [(430, True, True), (430, False, False), (0, True, False), (65535, True, False)],
)
def test_only_what_can_be_true(watts: int, is_active: bool, is_true: bool) -> None:
    """All ones, 0 W, more than any machine draws, and a meter that is off are no readings."""
    assert (ipmi.find_fault(ipmi.Reading(watts, 1.0, is_active)) is None) == is_true


def test_over_the_most_is_rejected() -> None:
    """A reading over what any machine draws is none."""
    assert ipmi.find_fault(ipmi.Reading(30_000, 1.0, is_active=True))


def test_absent_device_is_normal(tmp_path: Path) -> None:
    """A machine without the device is as it should be."""
    config = Config(host=host_config(tmp_path), ipmi=Ipmi(device=str(tmp_path / "ipmi0")))
    found = ipmi.probe(Host(config.host), config, SetClock())
    assert isinstance(found, Unavailable)
    assert found.absent


def test_another_file_is_no_device(tmp_path: Path) -> None:
    """A path that is no IPMI device is unavailable with a reason, and nothing is written to it."""
    path = tmp_path / "ipmi0"
    path.write_text("mine")
    config = Config(host=host_config(tmp_path), ipmi=Ipmi(device=str(path)))
    found = ipmi.probe(Host(config.host), config, SetClock())
    assert isinstance(found, Unavailable)
    assert not found.absent
    assert path.read_text() == "mine"


def test_rests_grow(tmp_path: Path) -> None:
    """A device that is gone is tried again after 5, 10, 20, 30 and 30 s, not each second."""
    clock = SetClock()
    collector = ipmi.Ipmi(Host(host_config(tmp_path)), str(tmp_path / "ipmi0"), clock)
    tried = []
    for second in range(100):
        clock.t_ns += SECOND
        collector.failure = ""
        assert collector.read() is None
        if collector.failure:
            tried.append(second)
    assert [b - a for a, b in pairwise(tried)] == [5, 10, 20, 30, 30]
