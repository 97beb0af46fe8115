"""Basic authentication of the metrics endpoint: users, hashes of passwords, and what a try costs.

A hash is dear on purpose.  What is right is therefore remembered for a while, and all tries
together may take no more than so many hashes a second: guessing takes no time from measuring.
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
HASHES_PER_S: Final = 1.0
BURST: Final = 4
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


class Guard:
    """Decides who is let in; callable from any thread."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._key = secrets.token_bytes(HASH_BYTES)
        self._nobody = Hash(secrets.token_bytes(SALT_BYTES), secrets.token_bytes(HASH_BYTES))
        self._users: Users = {}
        self._kept: dict[bytes, float] = {}
        self._budget = float(BURST)
        self._filled_s = now_s()
        self._lock = threading.Lock()

    def set_users(self, users: Users) -> None:
        """Let in these users from now on, whoever was right before."""
        with self._lock:
            self._users = users
            self._kept = {}

    def check(self, header: str) -> Verdict:
        """Judge the ``Authorization`` header of a request."""
        told = read_header(header)
        if told is None:
            return Verdict.WRONG
        user, password = told
        digest = hmac.digest(self._key, len(user).to_bytes(8, "big") + user + password, "sha256")
        with self._lock:  # one hash at a time; who waited for the same password finds it kept
            now = self._now_s()
            if self._kept.get(digest, 0.0) > now:
                self._kept[digest] = now + KEPT_S
                return Verdict.RIGHT
            if not self._take(now):
                return Verdict.LATER
            return self._hash(user, password, digest)

    def _take(self, now: float) -> bool:
        self._budget = min(self._budget + (now - self._filled_s) * HASHES_PER_S, float(BURST))
        self._filled_s = now
        if self._budget < 1.0:
            return False
        self._budget -= 1.0
        return True

    def _hash(self, user: bytes, password: bytes, digest: bytes) -> Verdict:
        """Compare; a user who is not there costs the same, so that names cannot be found out."""
        known = self._users.get(user)
        stored = known or self._nobody
        is_same = hmac.compare_digest(derive(password, stored.salt), stored.value)
        if known is None or not is_same:
            return Verdict.WRONG
        now = self._now_s()
        self._kept = {key: until for key, until in self._kept.items() if until > now}
        if len(self._kept) >= MAX_KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[digest] = now + KEPT_S
        return Verdict.RIGHT


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
