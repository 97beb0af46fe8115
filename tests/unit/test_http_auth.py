"""Users of the metrics endpoint: their hashes, and what a try costs."""

import base64
import io
import logging
import re
import subprocess
import sys

import pytest

from tests.unit.test_main import ROOT
from tychod.runtime import http_auth
from tychod.runtime.http_auth import (
    BURST,
    EACH_PER_S,
    HASHES_PER_S,
    KEPT_S,
    Guard,
    Hash,
    UsersError,
    Verdict,
    derive,
    hash_text,
    parse_users,
    read_header,
)


def basic(user: str, password: str) -> str:
    """Return an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now_s


class Derived:
    """Counts the hashes that are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(http_auth, "derive", self)

    def __call__(self, password: bytes, salt: bytes) -> bytes:
        """Return what costs no time."""
        self.count += 1
        return salt + password


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> Derived:
    """Replace the hash, which is dear on purpose, by one that is counted."""
    return Derived(monkeypatch)


def guard_of(clock: Clock, **passwords: str) -> Guard:
    """Return a guard that lets in these users, by the hash of ``Derived``."""
    guard = Guard(clock)
    guard.set_users(
        {name.encode(): Hash(b"salt", b"salt" + word.encode()) for name, word in passwords.items()}
    )
    return guard


def test_a_hash_lets_in_whom_it_is_of() -> None:
    """What --hash-password prints is read back; the password decides, to the last character."""
    text = hash_text(b"caf\xc3\xa9: secret")
    users = parse_users(b"# scrapers\r\n\nprometheus:" + text.encode() + b"\r\n")
    guard = Guard()
    guard.set_users(users)

    assert re.fullmatch(r"\$scrypt\$ln=14,r=8,p=1\$[\w+/]{22}\$[\w+/]{43}", text)
    assert derive(b"caf\xc3\xa9: secret", users[b"prometheus"].salt) == users[b"prometheus"].value
    assert guard.check(basic("prometheus", "café: secret")) is Verdict.RIGHT
    assert guard.check(basic("prometheus", "café: secret ")) is Verdict.WRONG
    assert text != hash_text(b"caf\xc3\xa9: secret")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no user"),
        (b"# nobody\n", "no user"),
        (b"a:secret\n", "line 1"),
        (b"\na:$2y$10$abcdefghijklmnopqrstuv\n", "line 2"),
        (b"\xff\xfe\x00", "line 1"),
        (b":%s\n", "line 1"),
        (b"a:%s\na:%s\n", "line 2 names a user for the second time"),
    ],
)
def test_a_file_that_names_no_users_is_refused(data: bytes, words: str) -> None:
    """The number of the line is told, nothing that is in it."""
    stored = b"$scrypt$ln=14,r=8,p=1$" + b"A" * 22 + b"$" + b"B" * 43
    with pytest.raises(UsersError, match=words) as caught:
        parse_users(data.replace(b"%s", stored))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic ", "Basic !", "Basic YQ==", "Bearer YTpi", "Basic YTpi é", "Basic " + "A"],
)
def test_a_header_that_holds_no_password_is_wrong(header: str) -> None:
    """And costs no hash."""
    assert read_header(header) is None
    assert read_header("bAsIc YTpiOmM=") == (b"a", b"b:c")
    assert read_header(basic("a", "b" * 2000)) is None


def test_who_was_right_is_not_hashed_again_for_a_while(derived: Derived) -> None:
    """A scrape every 15 s costs one hash in all; after a pause, or other users, a new one."""
    clock = Clock()
    guard = guard_of(clock, a="one")
    for _ in range(100):
        assert guard.check(basic("a", "one")) is Verdict.RIGHT
        clock.now_s += 15.0
    assert derived.count == 1
    clock.now_s += KEPT_S
    guard.check(basic("a", "one"))
    assert derived.count == 2
    guard.set_users({})
    assert guard.check(basic("a", "one")) is Verdict.WRONG
    assert derived.count == 3


def test_guessing_costs_no_more_than_a_hash_a_second(derived: Derived) -> None:
    """Others are told to come later; who was right before is let in all the same."""
    clock = Clock()
    guard = guard_of(clock, a="one")
    guard.check(basic("a", "one"))
    found = []
    for _ in range(1000):
        found.append(guard.check(basic("a", "two")))
        assert guard.check(basic("a", "one")) is Verdict.RIGHT
        clock.now_s += 0.01

    assert derived.count <= BURST + 10
    assert found.count(Verdict.WRONG) == derived.count - 1
    assert Verdict.RIGHT not in found


def test_guesses_lock_out_nobody_elsewhere(derived: Derived) -> None:
    """Who tries from one place leaves hashes for the others, at the first try and after a pause."""
    clock = Clock()
    guard = guard_of(clock, a="one")
    for _ in range(2):
        for n in range(600):
            clock.now_s += 0.1
            assert guard.check(basic("a", f"b{n}"), "10.0.0.9") is not Verdict.RIGHT
        assert guard.check(basic("a", "one"), "10.0.0.1") is Verdict.RIGHT
        clock.now_s += KEPT_S + 1.0
    assert derived.count <= 2 * (BURST + 60 * EACH_PER_S) + 4


def test_guesses_from_everywhere_leave_a_reserve_to_who_was_right(derived: Derived) -> None:
    """All together cost so many hashes a second and no more; a scraper's place is known."""
    clock = Clock()
    guard = guard_of(clock, a="one")
    assert guard.check(basic("a", "one"), "10.0.0.1") is Verdict.RIGHT
    clock.now_s += KEPT_S + 1.0
    before = derived.count
    for n in range(6000):
        clock.now_s += 0.01
        assert guard.check(basic("a", f"b{n}"), f"10.9.0.{n % 200}") is not Verdict.RIGHT

    assert derived.count - before <= BURST + 60 * HASHES_PER_S
    assert guard.check(basic("a", "one"), "10.0.0.1") is Verdict.RIGHT
    assert len(guard._budgets) <= http_auth.MAX_BUDGETS + http_auth.MAX_KEPT


def test_a_changed_file_leaves_in_whose_hash_stayed(derived: Derived) -> None:
    """Another user's line, or a file that was bad for a while, costs no hash; a new hash does."""
    clock = Clock()
    guard = guard_of(clock, a="one", b="two")
    for user, word in (("a", "one"), ("b", "two")):
        assert guard.check(basic(user, word)) is Verdict.RIGHT
    kept = {b"a": Hash(b"salt", b"saltone"), b"b": Hash(b"salt", b"saltnew")}
    guard.set_users({})
    assert guard.check(basic("a", "one")) is Verdict.WRONG
    guard.set_users(kept)
    count = derived.count

    assert guard.check(basic("a", "one")) is Verdict.RIGHT
    assert derived.count == count
    assert guard.check(basic("b", "two")) is Verdict.WRONG
    assert guard.check(basic("a", "one"), "elsewhere") is Verdict.RIGHT


def test_a_user_who_is_not_there_costs_the_same(derived: Derived) -> None:
    """Names cannot be found out by the time that an answer takes."""
    guard = guard_of(Clock(), a="one")
    for user in ("a", "nobody"):
        before = derived.count
        assert guard.check(basic(user, "wrong")) is Verdict.WRONG
        assert derived.count == before + 1


def test_where_no_users_are_set_nobody_is_let_in(derived: Derived) -> None:
    """Not even with an empty name and password."""
    guard = guard_of(Clock())
    assert guard.check(basic("", "")) is Verdict.WRONG
    assert derived.count == 1


def test_what_is_kept_is_bounded_and_no_password(derived: Derived) -> None:
    """A dump of the memory of what is kept shows digests."""
    clock = Clock()
    guard = guard_of(clock, **{f"user{n}": "word" for n in range(200)})
    for n in range(200):
        clock.now_s += 1.0
        assert guard.check(basic(f"user{n}", "word"), f"10.0.0.{n}") is Verdict.RIGHT

    assert len(guard._kept) <= http_auth.MAX_KEPT
    assert all(len(key) == 32 and b"word" not in key for key in guard._kept)
    assert derived.count == 200


def hash_password(given: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run `tychod --hash-password` with this as standard input."""
    command = [sys.executable, "-m", "tychod", "--hash-password"]
    return subprocess.run(
        command, cwd=ROOT, input=given, capture_output=True, check=False, timeout=60
    )


def test_the_command_prints_a_hash_and_never_the_password() -> None:
    """One line on standard input, with or without its end, is the password."""
    done = hash_password("sécret\r\nmore".encode())
    users = parse_users(b"a:" + done.stdout)
    nothing = hash_password(b"\n")

    assert (done.returncode, done.stderr) == (0, b"")
    assert derive("sécret".encode(), users[b"a"].salt) == users[b"a"].value
    assert (nothing.returncode, nothing.stdout) == (1, b"")
    assert b"a password is needed" in nothing.stderr


def test_a_terminal_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without echo; two that differ are refused."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    given = iter(["one", "one", "one", "two"])
    monkeypatch.setattr("getpass.getpass", lambda _prompt: next(given))

    assert http_auth.ask_password(Terminal()) == b"one"
    with pytest.raises(UsersError, match="differ"):
        http_auth.ask_password(Terminal())


def test_nothing_of_a_try_reaches_the_log(
    derived: Derived, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither right nor wrong passwords."""
    caplog.set_level(logging.DEBUG)
    guard = guard_of(Clock(), a="one")
    for word in ("one", "wrong", "wrong"):
        guard.check(basic("a", word))

    assert caplog.text == ""
    assert derived.count == 3
