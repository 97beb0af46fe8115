"""Named steps: each prints `ok NAME` or `FAIL NAME: why`, and ends within its time limit."""

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Generic, NamedTuple, NoReturn, TypeVar

C = TypeVar("C")


class StepError(Exception):
    """A promise that was not kept; the message says which and what was found instead."""


class SkippedError(Exception):
    """Why a check cannot be made on this machine."""


class Step(NamedTuple, Generic[C]):
    """One check: its name, what it does with the context, how long it may take."""

    name: str
    check: Callable[[C], str | None]  # returns figures worth printing
    limit_s: int = 60


def run_steps(
    steps: Sequence[Step[C]], context: C, on_failure: Callable[[C], None] = lambda _: None
) -> int:
    """Run the steps in order, each however the others went; return how many failed."""
    failed = 0
    for step in steps:
        began_s = time.monotonic()
        try:
            with time_limit(step.limit_s):
                note = step.check(context)
        except SkippedError as reason:
            say(f"skip {step.name}: {reason}")
        except Exception as error:  # noqa: BLE001 (whatever ends a step, the next one runs)
            failed += 1
            say(f"FAIL {step.name}: {describe_error(error)}")
            on_failure(context)
        else:
            figures = f" ({note})" if note else ""
            say(f"ok {step.name}{figures} [{time.monotonic() - began_s:.1f} s]")
    return failed


def describe_error(error: Exception) -> str:
    """Return a broken promise as it is, and a fault of the check itself with its place."""
    if isinstance(error, StepError):
        return str(error)
    return "the check itself failed\n" + "".join(traceback.format_exception(error))


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise StepError in the block once it has taken `seconds`."""

    def expire(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise StepError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def require(kept: object, what: str) -> None:
    """Raise StepError(what) unless `kept` is true."""
    if not kept:
        raise StepError(what)


def say(line: str) -> None:
    """Print a line at once: whoever watches a long run wants to see where it is."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
