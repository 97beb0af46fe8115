"""tychoctl: starts the client without what makes the start of a short program slow."""

import gc
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    # Nothing that imports and one answer make is garbage; looking for it took a tenth of the time.
    gc.disable()
    from tychoctl import run

    return run.main(argv)


if __name__ == "__main__":
    raise SystemExit(main())
