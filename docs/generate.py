"""Writes what the declarations generate: settings file, regions of the manual, manual pages.

Run `python3 -m docs.generate` in the checkout after a change of `tychod/config.py`,
`tychod/protocol.py` or `tychod/flags.py`; the tests fail while a file differs from what this
would write.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from docs.metricspage import render_metrics
from tychod import frames
from tychod.config_text import render_default, render_table, takes
from tychod.flags import DOMAIN_FLAGS, LEAF_FLAGS
from tychod.protocol import OPS
from tychod.schema import Dataclass, fields_of

ROOT: Final = Path(__file__).resolve().parent.parent


def generated() -> Mapping[str, str]:
    """Return path below the checkout and whole text of every file that has generated parts."""
    from docs.manpages import render_pages
    from tychoctl.completion import render

    return {
        **render_pages(),
        "packaging/completion/tychoctl.bash": render("bash"),
        "packaging/completion/_tychoctl": render("zsh"),
        "etc/tychod.toml": render_default(),
        "tychod/default.toml": render_default(),  # for tychoctl config default, in a package
        "docs/configuration.md": with_regions("docs/configuration.md", settings=render_table()),
        "docs/accuracy.md": with_regions("docs/accuracy.md", figures=render_accuracy()),
        "docs/metrics.md": with_regions(
            "docs/metrics.md", tycho=render_metrics("tycho"), kepler=render_metrics("kepler")
        ),
        "docs/protocol.md": with_regions(
            "docs/protocol.md",
            operations=render_operations(),
            limits=render_limits(),
            flags=render_flags(),
        ),
    }


def with_regions(path: str, **texts: str) -> str:
    """Return a file's text with what stands between the markers of each region replaced."""
    whole = (ROOT / path).read_text(encoding="utf-8")
    for name, text in texts.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        before, found, rest = whole.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{path}: has no region between {begin} and {end}")
        whole = f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"
    return whole


def render_accuracy() -> str:
    """Return what `make accuracy` printed, as it was kept."""
    text = (ROOT / "docs/accuracy.txt").read_text(encoding="utf-8")
    return f"```text\n{text.strip()}\n```"


def render_operations() -> str:
    """Return the table of the control socket's operations and their arguments."""
    lines = ["| operation | arguments | answers | what it is |", "|---|---|---|---|"]
    for name, op in OPS.items():
        arguments = "<br>".join(render_arguments(op.request)) or "none"
        once = "after the first window" if op.needs_window else "at once"
        answers = "as a stream" if op.stream else once
        lines.append(f"| `{name}` | {arguments} | {answers} | {op.doc} |")
    return "\n".join(lines)


def render_arguments(request: type[Dataclass]) -> Iterator[str]:
    """Yield one line for each argument: name, what it takes, what it means."""
    for spec in fields_of(request):
        optional = "" if spec.default is dataclasses.MISSING else "; may be left out"
        yield f"`{spec.name}`: {takes(spec)}{optional}. {spec.doc}"


def render_limits() -> str:
    """Return the table of what a client may take."""
    rows = {
        "a request": f"{frames.MAX_REQUEST_BYTES // 1024} KiB",
        "an answer": f"{frames.MAX_REPLY_BYTES // 1024 // 1024} MiB",
        "connections at once": f"{frames.MAX_CONNECTIONS}, "
        f"{frames.RESERVED_FOR_ROOT} of them kept for root",
        "connections of one user": f"{frames.MAX_CONNECTIONS_PER_UID}",
        "new connections of one user a second": f"{frames.MAX_NEW_PER_S}",
        "requests a second on a connection": f"{frames.MAX_REQUESTS_PER_S}, more are delayed",
        "time between requests": f"{frames.IDLE_TIMEOUT_S:g} s",
        "time from the first to the last byte of a frame": f"{frames.FRAME_TIMEOUT_S:g} s",
    }
    lines = [f"| {what} | {limit} |" for what, limit in rows.items()]
    return "\n".join(["| what | at most |", "|---|---|", *lines])


def render_flags() -> str:
    """Return the table of what may be special about a workload or a domain."""
    flags = {"a workload": LEAF_FLAGS, "a domain": DOMAIN_FLAGS}
    rows = [f"| `{n}` | {what} | {text} |" for what in flags for n, text in flags[what].items()]
    return "\n".join(["| flag | of | meaning |", "|---|---|---|", *rows])


def main() -> int:
    """Bring every generated part up to date."""
    for path, text in generated().items():
        (ROOT / path).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
