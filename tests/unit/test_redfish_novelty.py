"""What tells a new reading of a BMC from the one before, when every mark may deceive."""

from collections.abc import Sequence

from tychod.collectors.redfish_novelty import STREAK, Marks, Novelty

S = 1_000_000_000


def news(answers: Sequence[tuple[float, Marks]], step_ns: int = S // 2) -> list[bool]:
    """Return which of some answers, evenly spaced, are taken for new readings."""
    novelty = Novelty()
    return [novelty.is_new(value, marks, i * step_ns) for i, (value, marks) in enumerate(answers)]


def test_a_new_etag_or_reading_time_is_a_new_reading() -> None:
    """A steady machine publishes the same value again."""
    marks: list[Marks] = [(("a",), (), ()), (("a",), (), ()), (("b",), (), ())]
    times: list[Marks] = [((), ("1",), ()), ((), ("1",), ()), ((), ("2",), ())]

    assert news([(200.0, m) for m in marks]) == [True, False, True]
    assert news([(200.0, m) for m in times]) == [True, False, True]


def test_a_new_value_is_a_new_reading_whatever_the_marks() -> None:
    """A BMC may forget to change its ETag."""
    assert news([(200.0, (("a",), (), ())), (201.0, (("a",), (), ()))]) == [True, True]


def test_a_date_that_ticks_tells_nothing() -> None:
    """It has moved whenever a second has passed."""
    answers: list[tuple[float, Marks]] = [(200.0, ((), (), (str(i // 2),))) for i in range(40)]

    assert news(answers) == [True] + [False] * 39


def test_a_date_that_stands_still_is_when_the_document_was_made() -> None:
    """Once it has stood for longer than a second, its change is a new reading."""
    answers: list[tuple[float, Marks]] = [(200.0, ((), (), (str(i // 6),))) for i in range(18)]

    assert [i for i, is_new in enumerate(news(answers)) if is_new] == [0, 6, 12]


def test_an_etag_that_differs_in_every_answer_is_no_longer_believed() -> None:
    """Else the lock would think that the BMC publishes whenever it is asked."""
    answers: list[tuple[float, Marks]] = [(200.0, ((str(i),), (), ())) for i in range(3 * STREAK)]
    found = news(answers)

    assert not any(found[STREAK:])


def test_an_etag_that_changes_with_the_value_stays_believed() -> None:
    """A BMC that publishes faster than it is asked is always new."""
    answers: list[tuple[float, Marks]] = [
        (200.0 + i, ((str(i),), (), ())) for i in range(3 * STREAK)
    ]

    assert all(news(answers))


def test_an_etag_that_stands_still_again_is_believed_again() -> None:
    """A steady value under an honest ETag, asked rarely, looked like a deceptive one."""
    deceptive: list[tuple[float, Marks]] = [(200.0, ((str(i),), (), ())) for i in range(STREAK + 2)]
    honest: list[tuple[float, Marks]] = [(200.0, ((f"x{i // 2}",), (), ())) for i in range(6)]
    found = news([*deceptive, *honest])

    assert found[-4:] == [True, False, True, False]
