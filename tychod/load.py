"""``tychod-load``: loads the kernel programs, pins them, and takes them away again."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tychod.settings import SettingsError, add_arguments, arguments_from, load_settings

if TYPE_CHECKING:
    from tychod.config import Config
    from tychod.hostfs import Host
    from tychod.kernel.bpf.attached import Outcome

FAILED: Final = 1
INVALID: Final = 2
NOT_ATTACHED: Final = 3
COMMANDS: Final = (
    ("attach", "load and pin the programs; keeps them if they are there and as wanted"),
    ("detach", "remove the programs of every version; nothing stays"),
    ("status", "say what is attached; exit 0 attached, 3 not attached, 1 error"),
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``tychod-load``."""
    parser = argparse.ArgumentParser(
        prog="tychod-load",
        description="Loads the kernel programs that count CPU time for tychod.",
        epilog="systemd runs it as tychod-bpf.service. attach takes CAP_BPF and CAP_PERFMON.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_arguments(command)
        command.add_argument(
            "--pin-dir",
            metavar="DIR",
            help="pin below this directory of a BPF file system (default: fs/bpf/tychod in sysfs)",
        )
        if name == "status":
            command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do one command; 0 done, 1 failed, 2 wrong usage or configuration, 3 not attached."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    from tychod.kernel.bpf.plan import LoadError

    try:
        if len(arguments) == 2 and arguments[0] == "hand-over":  # tychod's own child, in no help
            return _hand_over(int(arguments[1]))
        return _run(build_parser().parse_args(arguments))
    except SettingsError as exc:
        return _say(f"tychod-load: {exc}\n", INVALID)
    except LoadError as exc:
        return _say(f"tychod-load: {exc.reason}; {exc.remedy}\n", FAILED)


def _run(namespace: argparse.Namespace) -> int:
    from tychod.hostfs import Host
    from tychod.kernel.bpf import attached, pins

    config = load_settings(arguments_from(namespace), os.environ).config
    host = Host(config.host)
    root: str = os.path.abspath(namespace.pin_dir or pins.default_root(host))  # noqa: PTH100
    if namespace.command == "attach":
        return _report(_attach(host, config, root))
    if namespace.command == "detach":
        return _report(attached.detach_pinned(host, root))
    state = attached.read_state(host, root)
    plain = attached.to_plain(state)
    text = json.dumps(plain) + "\n" if namespace.json else attached.render(state, root)
    sys.stdout.write(text)
    return 0 if state else NOT_ATTACHED


def _attach(host: "Host", config: "Config", root: str) -> "Outcome":
    """Attach; the unit's directory keeps the reason of a refusal, for the daemon to tell."""
    from tychod.kernel.bpf import attached
    from tychod.kernel.bpf.plan import LoadError

    try:
        outcome = attached.attach_pinned(host, config, root)
    except LoadError as exc:
        _keep_refusal(f"{exc.reason}\n{exc.remedy}")
        raise
    _keep_refusal("")
    return outcome


def _keep_refusal(text: str) -> None:
    directory = os.environ.get("RUNTIME_DIRECTORY")
    if directory:
        with contextlib.suppress(OSError):  # the journal has it, too
            Path(directory, "refused").write_text(text)


def _report(outcome: "Outcome") -> int:
    for note in outcome.notes:
        sys.stderr.write(f"tychod-load: {note}\n")
    sys.stdout.write(f"{outcome.text}\n")
    return 0


def _say(text: str, code: int) -> int:
    sys.stderr.write(text)
    return code


def _hand_over(number: int) -> int:
    """Load as a child of the daemon: it gets the descriptors, we end."""
    from tychod.kernel.bpf import child
    from tychod.kernel.bpf.core import load_core
    from tychod.kernel.bpf.plan import LoadError

    try:
        loaded = load_core(child.read_request(sys.stdin.buffer).plan)
    except LoadError as exc:
        child.hand_over_error(number, exc)
        return FAILED
    child.hand_over(number, loaded)
    return 0


if __name__ == "__main__":
    sys.exit(main())
