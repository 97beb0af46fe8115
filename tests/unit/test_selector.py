"""Label selectors: Kubernetes' grammar and meaning, and errors that say what was expected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tychoctl.client import Failure
from tychoctl.options import parse_options
from tychoctl.selector import SelectorError, parse_selector

LABELS = {"app": "web", "tier": "front", "size": "12", "empty": "", "example.com/in": "in"}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("", True),
        ("  ", True),
        ("app=web", True),
        ("app==web", True),
        (" app = web , tier = front ", True),
        ("app=web,tier=back", False),
        ("app!=web", False),
        ("app!=db", True),
        ("missing!=db", True),  # as in Kubernetes: what is absent is not equal
        ("missing=db", False),
        ("tier in (back,front)", True),
        ("tier in(front)", True),
        ("tier in (back)", False),
        ("missing in (back)", False),
        ("tier notin (back)", True),
        ("tier notin (back,front)", False),
        ("missing notin (back)", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("! app", False),
        ("empty=", True),
        ("empty=,app=web", True),
        ("empty==", True),
        ("app=", False),
        ("empty in (a,)", True),
        ("app in (a,)", False),
        ("missing in (,)", False),
        ("example.com/in in (in,notin)", True),
        ("in", False),
        ("in in (in)", False),
        ("notin notin (notin)", True),
        ("size>11", True),
        ("size > 12", False),
        ("size<13,size>5", True),
        ("app>1", False),
        ("missing<1", False),
    ],
)
def test_selectors_mean_what_they_do_in_kubernetes(text: str, fits: bool) -> None:
    """Each form, and what it says of a label that is not there."""
    assert parse_selector(text)(LABELS) is fits


@pytest.mark.parametrize(
    ("text", "expected", "found"),
    [
        ("=web", "the name of a label", "'='"),
        ("app=web,", "the name of a label", "the end"),
        (",app", "the name of a label", "','"),
        ("app web", "=, !=, in, notin, a comma or the end", "'web'"),
        ("app=web tier=front", "a comma or the end", "'tier'"),
        ("app=!web", "a label's value of", "'!'"),
        ("app===web", "a label's value of", "'='"),
        ("app in web", "( after in or notin", "'web'"),
        ("app in (web", "a comma or )", "the end"),
        ("app in ()", "at least one value", "')'"),
        ("app in (a b)", "a comma or )", "'b'"),
        ("app notin", "( after in or notin", "the end"),
        ("!app=web", "a comma or the end", "'='"),
        ("!", "the name of a label", "the end"),
        ("!!app", "the name of a label", "'!'"),
        ("app=-x", "a label's value of", "'-x'"),
        ("app=" + "x" * 64, "a label's value of", "'xxx"),
        ("app=w\x1b[2Jb", "a label's value of", r"'w\x1b[2Jb'"),
        ("UPPER.example/app", "the name of a label", "'UPPER.example/app'"),
        ("size>big", "a whole number after >", "'big'"),
        ("app IN (web)", "=, !=, in, notin, a comma or the end", "'IN'"),
    ],
)
def test_an_error_says_what_was_expected_with_an_example(
    text: str, expected: str, found: str
) -> None:
    """Where it went wrong, what could stand there, and one selector that is right."""
    with pytest.raises(SelectorError) as caught:
        parse_selector(text)

    told = str(caught.value)
    assert f"expected {expected}" in told
    assert f"found {found}" in told
    assert told.endswith("for example app=web,tier in (front,back),!old")
    assert told.isprintable()
    assert len(told) < 400


@given(st.text("ab=!(),<> in\t0é", max_size=30) | st.text(max_size=30))
def test_any_text_is_a_selector_or_an_error(text: str) -> None:
    """No text breaks it, and what it says of one can be printed."""
    told = ""
    try:
        parse_selector(text)(LABELS)
    except SelectorError as exc:
        told = str(exc)

    assert told.isprintable()


def test_a_selector_of_endless_length_is_refused() -> None:
    """The command line may be long, an answer in time matters more."""
    with pytest.raises(SelectorError, match="at most 10000"):
        parse_selector("a," * 10_000)


def test_labels_that_are_no_text_are_not_there() -> None:
    """A daemon that says something else does not break the client."""
    assert parse_selector("!a")({"a": ["x"]}) is True
    assert parse_selector("a=x")({"a": ["x"]}) is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pods", "-l", "app in web"], "expected ( after in or notin"),
        (["pods", "--selector"], "expected one argument"),
        (["vms", "-l", "app"], "knows no -l"),
        (["units", "-l", "app"], "knows no -l"),
        (["pods", "--slices"], "pods knows no --slices"),
        (["pods", "--namespaces", "-l", "app"], "--namespaces sums up whole namespaces"),
        (["pods", "--sort", "size"], "'size' is none of power, energy, cpu, name"),
        (["replay", "x.rec", "units", "-l", "app"], "units knows no -l"),
        (["replay", "x.rec", "units", "-n", "shop"], "units knows no -n"),
        (["replay", "x.rec", "--slices"], "workloads knows no --slices"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], words: str) -> None:
    """Each is a usage error, exit 2, that names what is wrong."""
    with pytest.raises(Failure) as caught:
        parse_options(arguments)

    assert caught.value.exit_code == 2
    assert words in caught.value.message


@pytest.mark.parametrize(
    "arguments",
    [
        ["pods", "-n", "shop", "-l", "app=web", "--sort", "name"],
        ["containers", "--selector=app"],
        ["workloads", "-l", "!app"],
        ["pods", "--namespaces", "-n", "shop"],
        ["units", "--slices", "--sort", "energy"],
        ["vms", "-n", "shop"],
        ["replay", "x.rec", "pods", "-l", "app=web"],
        ["replay", "x.rec", "pods", "--namespaces"],
    ],
)
def test_options_that_make_sense_are_taken(arguments: list[str]) -> None:
    """Each command knows its own."""
    options = parse_options(arguments)

    assert options.command == arguments[0]
    assert (options.selector is not None) == any("-l" in a or "--sel" in a for a in arguments)


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_selector_matches_everything_as_for_kubectl(text: str) -> None:
    """It asks for no label, so pods whose labels nobody knows are shown, too."""
    assert parse_options(["pods", "-l", text]).selector is None
