"""What a wrong command line is told: what is wrong in it, and what would be right."""

import pytest

from tychoctl.client import Failure
from tychoctl.options import parse_options

TOLD = (
    ("replay f status", "replay prints no status; it has node, gpus, workloads, pods"),
    ("replay f report", "replay prints no report; it has node"),
    ("replay f pod", "replay prints no pod; did you mean pods?"),
    ("--wait -1 node", "argument --wait: '-1' is no number of seconds from 0"),
    ("--limit 3 pods", "--limit stands after the command: tychoctl pods --limit"),
    ("node --sort cpu", "node knows no --sort; see tychoctl node --help"),
    ("gpus --limit 3", "gpus knows no --limit; see tychoctl gpus --help"),
    ("pods --limt 3", "pods knows no --limt; did you mean --limit?"),
    ("status --watc", "status knows no --watc; did you mean --watch?"),
    ("explain pods shop/web", "argument KIND: 'pods' is none of pod, container, vm, unit, "),
    ("explain pods shop/web", "; did you mean pod?"),
    ("doctor --group energie", "did you mean energy?"),
    ("pods -o jsn", "did you mean json?"),
    ("podds", "there is no command 'podds'; did you mean pods?"),
    ("config show rapl extra", "config takes no argument 'extra' here"),
    ("config rapl psys", "config takes one setting or section: leave out 'psys'"),
)


@pytest.mark.parametrize(("line", "told"), TOLD)
def test_a_wrong_line_is_told_what_is_wrong(line: str, told: str) -> None:
    """One sentence, exit status 2; an option that other commands have is not taken for a typo."""
    with pytest.raises(Failure) as caught:
        parse_options(line.split())

    assert told in caught.value.message
    assert caught.value.exit_code == 2


def test_what_people_type_out_of_habit_is_understood() -> None:
    """A setting alone is shown; --version is the command of that name, wherever it stands."""
    shown = parse_options(["config", "rapl"])
    version = parse_options(["-o", "json", "--version"])

    assert (shown.action, shown.key) == ("show", "rapl")
    assert (version.command, version.output) == ("version", "json")
    assert parse_options(["config", "default"]).action == "default"
    assert parse_options(["config", "show", "rapl"]).key == "rapl"
