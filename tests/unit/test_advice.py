"""What a refused user is told: a command that can be run, or to ask root."""

import os
from pathlib import Path

import pytest

from tychoctl import advice

UNKNOWN = 4_000_000


@pytest.mark.parametrize(
    ("uid", "gid", "told"),
    [
        (1, 1, "sudo usermod -aG"),
        (UNKNOWN, 1, "ask root, or run sudo tychoctl"),
        (1, 65534, "ask root, or run sudo tychoctl"),
        (1, UNKNOWN, "ask root, or run sudo tychoctl"),
        (1, 0, "ask root, or run sudo tychoctl"),
    ],
)
def test_ids_without_a_name_make_no_command(
    uid: int, gid: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`usermod -aG nogroup #65533` is no command, so who has no name asks root."""
    path = tmp_path / "tychod.sock"
    path.touch()
    if os.getuid() != 0:
        pytest.skip("only root gives a file to another group")
    os.chown(path, -1, gid)
    monkeypatch.setattr(os, "getuid", lambda: uid)

    found = advice.render_not_permitted(str(path))

    assert told in found
    assert "#" not in found
