"""Basic authentication of the metrics endpoint: users, hashes of passwords, and what a try costs.

A hash is dear on purpose.  What is right is therefore remembered for a while, and all tries
together may take no more than so many hashes a second: guessing takes no time from measuring.  Nor
does it lock anybody out: each place that tries come from has its part, and those that somebody was
right from before have a reserve.
"""

import base64
import binascii
import getpass
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, NamedTuple, TextIO

LOG_N: Final = 14  # 16 MiB and about 50 ms: OWASP's advice for logins, less, as it is asked often
BLOCK: Final = 8
PARALLEL: Final = 1
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32
MAX_MEMORY: Final = 64 * 1024 * 1024
MAX_USERS: Final = 1000
MAX_PASSWORD: Final = 1024  # bytes
HASHES_PER_S: Final = 1.0  # of all together
EACH_PER_S: Final = 0.25  # of tries from one place
RESERVE_PER_S: Final = 0.5  # beside the others, of those from where somebody was right before
BURST: Final = 4  # hashes at once, of each of these
MAX_BUDGETS: Final = 1024
KEPT_S: Final = 300.0
MAX_KEPT: Final = 64
PREFIX: Final = f"$scrypt$ln={LOG_N},r={BLOCK},p={PARALLEL}$"
_FORM: Final = re.compile(re.escape(PREFIX) + r"([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})")
REMEDY: Final = "write lines of USER:HASH, HASH as `tychod --hash-password` prints it"


class Hash(NamedTuple):
    """A password's hash and its salt."""

    salt: bytes
    value: bytes


Users = Mapping[bytes, Hash]


class UsersError(Exception):
    """A file of users that cannot be used; no word of its content is told."""


class Verdict(Enum):
    """What comes of a try."""

    RIGHT = "right"
    WRONG = "wrong"
    LATER = "later"  # too many were tried just now


def derive(password: bytes, salt: bytes) -> bytes:
    """Return scrypt's key of a password."""
    return hashlib.scrypt(
        password,
        salt=salt,
        n=1 << LOG_N,
        r=BLOCK,
        p=PARALLEL,
        maxmem=MAX_MEMORY,
        dklen=HASH_BYTES,
    )


def hash_text(password: bytes) -> str:
    """Return a new hash as text: ``$scrypt$ln=14,r=8,p=1$SALT$KEY``, both base64 unpadded."""
    salt = secrets.token_bytes(SALT_BYTES)
    texts = [base64.b64encode(raw).rstrip(b"=").decode() for raw in (salt, derive(password, salt))]
    return PREFIX + "$".join(texts)


def parse_users(data: bytes) -> Users:
    """Return the users of a file; raise ``UsersError`` for a line that is none."""
    users: dict[bytes, Hash] = {}
    for number, line in enumerate(data.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith(b"#"):
            continue
        name, _, text = stripped.partition(b":")
        found = _FORM.fullmatch(text.strip().decode("latin-1"))
        if not name or found is None:
            raise UsersError(f"line {number} is no user with a hash")
        if name in users:
            raise UsersError(f"line {number} names a user for the second time")
        users[name] = Hash(*(_unpadded(part) for part in found.groups()))
    if not users:
        raise UsersError("no user is in it")
    if len(users) > MAX_USERS:
        raise UsersError(f"more than {MAX_USERS} users are in it")
    return users


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def read_header(header: str) -> tuple[bytes, bytes] | None:
    """Return user and password of an ``Authorization`` header; None where it holds none."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(rest.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon and len(password) <= MAX_PASSWORD else None


class Budget:
    """Hashes that may be made: so many a second, a few at once."""

    def __init__(self, per_s: float, now_s: float) -> None:
        self._per_s = per_s
        self._left = float(BURST)
        self._filled_s = now_s

    def left(self, now_s: float) -> float:
        """Return how many may be made now."""
        self._left = min(self._left + (now_s - self._filled_s) * self._per_s, float(BURST))
        self._filled_s = now_s
        return self._left

    def take(self) -> None:
        """Make one."""
        self._left -= 1.0


class Kept(NamedTuple):
    """Who was right, by which hash, and until when that is remembered."""

    until_s: float
    user: bytes
    stored: Hash


class Guard:
    """Decides who is let in; callable from any thread."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._key = secrets.token_bytes(HASH_BYTES)
        self._nobody = Hash(secrets.token_bytes(SALT_BYTES), secrets.token_bytes(HASH_BYTES))
        self._users: Users = {}
        self._kept: dict[bytes, Kept] = {}
        self._all = Budget(HASHES_PER_S, now_s())
        self._reserve = Budget(RESERVE_PER_S, now_s())
        self._budgets: dict[str, Budget] = {}
        self._known: dict[str, None] = {}  # places that somebody was right from, latest last
        self._lock = threading.Lock()

    def set_users(self, users: Users) -> None:
        """Let in these users from now on; who was right before is not hashed again for that."""
        with self._lock:
            self._users = users

    def check(self, header: str, peer: str = "") -> Verdict:
        """Judge the ``Authorization`` header of a request that came from ``peer``."""
        told = read_header(header)
        if told is None:
            return Verdict.WRONG
        user, password = told
        digest = hmac.digest(self._key, len(user).to_bytes(8, "big") + user + password, "sha256")
        with self._lock:  # one hash at a time; who waited for the same password finds it kept
            now = self._now_s()
            kept = self._kept.get(digest)
            if kept and kept.until_s > now and self._users.get(user) == kept.stored:
                self._keep(digest, user, kept.stored, peer)
                return Verdict.RIGHT
            if not self._take(peer, now):
                return Verdict.LATER
            return self._hash(user, password, digest, peer)

    def _take(self, peer: str, now: float) -> bool:
        own = self._budget_of(peer, now)
        if own.left(now) < 1.0:
            return False
        shared = [self._all, self._reserve] if peer in self._known else [self._all]
        for budget in shared:
            if budget.left(now) >= 1.0:
                budget.take()
                own.take()
                return True
        return False

    def _budget_of(self, peer: str, now: float) -> Budget:
        """Return what a place has; those that are forgotten have all, within that of all."""
        found = self._budgets.get(peer)
        if found is None:
            if len(self._budgets) >= MAX_BUDGETS:
                self._budgets = {k: b for k, b in self._budgets.items() if b.left(now) < BURST}
            if len(self._budgets) >= MAX_BUDGETS:
                self._budgets.pop(next(iter(self._budgets)))
            found = self._budgets[peer] = Budget(EACH_PER_S, now)
        return found

    def _hash(self, user: bytes, password: bytes, digest: bytes, peer: str) -> Verdict:
        """Compare; a user who is not there costs the same, so that names cannot be found out."""
        known = self._users.get(user)
        stored = known or self._nobody
        is_same = hmac.compare_digest(derive(password, stored.salt), stored.value)
        if known is None or not is_same:
            return Verdict.WRONG
        self._keep(digest, user, stored, peer)
        return Verdict.RIGHT

    def _keep(self, digest: bytes, user: bytes, stored: Hash, peer: str) -> None:
        """Remember who was right and from where, each the latest ones."""
        now = self._now_s()
        self._kept.pop(digest, None)
        self._kept[digest] = Kept(now + KEPT_S, user, stored)
        self._known.pop(peer, None)
        self._known[peer] = None
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        if len(self._known) > MAX_KEPT:
            del self._known[next(iter(self._known))]


def ask_password(stdin: TextIO | None) -> bytes:
    """Return a password: asked for twice on a terminal, else the first line of standard input.

    Raise ``UsersError`` where there is none, or where the two differ.
    """
    if stdin is None:  # closed before the start
        raise UsersError("standard input is closed: a password is read from it")
    if stdin.isatty():
        password = getpass.getpass("Password: ").encode("utf-8", "surrogateescape")
        if getpass.getpass("Again: ").encode("utf-8", "surrogateescape") != password:
            raise UsersError("the two passwords differ")
    else:
        password = stdin.buffer.readline(MAX_PASSWORD + 2).rstrip(b"\r\n")
    if not password:
        raise UsersError("a password is needed: type it, or give it as one line on standard input")
    if len(password) > MAX_PASSWORD:
        raise UsersError(f"a password has at most {MAX_PASSWORD} bytes")
    return password
