"""Writes what the declarations generate: the default settings file and regions of the manual.

Run `python3 -m docs.generate` in the checkout after a change of `tychod/config.py`;
the tests fail while a file differs from what this would write.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tychod.config_text import render_default, render_table

ROOT: Final = Path(__file__).resolve().parent.parent


def generated() -> Mapping[str, str]:
    """Return path below the checkout and whole text of every file that has generated parts."""
    return {
        "etc/tychod.toml": render_default(),
        "docs/configuration.md": with_region("docs/configuration.md", "settings", render_table()),
    }


def with_region(path: str, name: str, text: str) -> str:
    """Return a file's text with what stands between the two markers of a region replaced."""
    begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
    before, found, rest = (ROOT / path).read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{path}: has no region between {begin} and {end}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def main() -> int:
    """Bring every generated part up to date."""
    for path, text in generated().items():
        (ROOT / path).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
