"""``tychod-load``: loads the kernel programs, pins them, and takes them away again."""

import sys
from collections.abc import Sequence

from tychod.kernel.bpf import child
from tychod.kernel.bpf.plan import LoadError


def main(argv: Sequence[str] | None = None) -> int:
    """Do one command; 0 done, 1 failed, 2 wrong usage or configuration, 3 not attached."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) == 2 and arguments[0] == child.HIDDEN_COMMAND:
        return _hand_over(int(arguments[1]))
    return 2


def _hand_over(number: int) -> int:
    """Load as a child of the daemon: it gets the descriptors, we end."""
    from tychod.kernel.bpf.core import load_core

    try:
        loaded = load_core(child.read_request(sys.stdin.buffer).plan)
    except LoadError as exc:
        child.hand_over_error(number, exc)
        return 1
    child.hand_over(number, loaded)
    return 0


if __name__ == "__main__":
    sys.exit(main())
