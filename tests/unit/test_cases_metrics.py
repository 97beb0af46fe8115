"""The metrics that Kepler has, case by case: each is there with its type and its labels."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.fixtures import snapshots as made
from tests.fixtures.scrapes import (
    ACCEPTS,
    before_of,
    families_of,
    make_node,
    samples_of,
    scrape_of,
    text_of,
)
from tychod.exposition.table import FAMILIES
from tychod.model import Snapshot

NODE: Final = make_node()
IDLE: Final = made.make_snapshot()
"""A node whose workloads have never used a GPU."""


def read_cases(cases_dir: Path) -> list[Mapping[str, object]]:
    """Return the cases."""
    cases: list[Mapping[str, object]] = json.loads((cases_dir / "metrics.json").read_text())[
        "cases"
    ]
    return cases


def labels_of(case: Mapping[str, object]) -> set[str]:
    """Return a case's labels, the constant ones too."""
    told: set[str] = set()
    for key in ("labels", "const_labels"):
        value = case[key]
        assert isinstance(value, list)
        told |= set(value)
    return told


def emitted(snapshot: Snapshot, accept: str) -> dict[str, tuple[str, set[str]]]:
    """Return type and labels of each name in a node's text."""
    text = text_of(scrape_of(snapshot, before=before_of(snapshot)), "kepler", accept)
    return {
        sample.name: (family.type, set(sample.labels))
        for family in families_of(text)
        for sample in family.samples
    }


def test_every_case_is_served_with_its_type_and_labels(cases_dir: Path) -> None:
    """On a node that has it all, in both formats."""
    cases = read_cases(cases_dir)
    assert cases
    for accept in ACCEPTS:
        found = emitted(NODE, accept)
        for case in cases:
            name = str(case["name"])
            assert found[name] == (case["type"], labels_of(case)), name


def test_every_case_is_there_in_its_state_alone(cases_dir: Path) -> None:
    """What is there above 0 only is absent on a node where it is 0, and the rest is not."""
    found = {s.name for s in samples_of(text_of(scrape_of(IDLE, before=before_of(IDLE)), "kepler"))}
    for case in read_cases(cases_dir):
        assert (case["name"] in found) == (case["emitted"] != "when > 0"), case["name"]


def test_every_case_is_of_its_level(cases_dir: Path) -> None:
    """The levels of the settings mean Kepler's."""
    for case in read_cases(cases_dir):
        assert FAMILIES[str(case["name"])].level == case["level"]
