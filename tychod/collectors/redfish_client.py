"""One kept conversation with a BMC: TLS, session or basic authentication, limits, short reasons.

Imports `requests`, so it is itself imported only once there is a BMC to ask.  No reason or
representation holds a credential: texts of the libraries are classified, never passed on.
"""

import base64
import ipaddress
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util.ssl_match_hostname import CertificateError

from tychod.clock import Clock
from tychod.collectors.redfish_credentials import Bmc, Secret
from tychod.collectors.redfish_errors import Raw, RedfishError, bad_status, misnamed, unverified
from tychod.config import Redfish
from tychod.documents import parse_json
from tychod.hostfs import Host
from tychod.http_line import (
    BROKEN,
    TIMEOUTS,
    Line,
    ask,
    causes_of,
    errno_text,
    first_of,
    new_session,
    read_body,
    system_ca,
)

ROOT: Final = "/redfish/v1/"
SESSIONS: Final = "/redfish/v1/SessionService/Sessions"
BODY_LIMIT: Final = 1 << 20  # the largest Power document of DMTF's mock-ups has 20 kB
MEMORY_LIMIT: Final = 16 << 20
CLOSE_S: Final = 1.0
"""How long the end of a session may take: who stops the daemon waits for it."""
GRACE_S: Final[Mapping[str, float]] = MappingProxyType({"GET": 0.3, "POST": 0.8})
"""And a question before it: a BMC takes longer for a new handshake than for most answers.

A login that is cut may leave a session that nobody ends; the daemon has two seconds for all.
"""
TOKEN_LIMIT: Final = 4096
_CHUNK: Final = 64 << 10
_PATH: Final = re.compile(r"/redfish/(?!.*//)[!-\[\]-~]{1,500}")  # printable, no backslash
_TOKEN: Final = re.compile(r"[!-~]+")
_REFUSED: Final = frozenset({400, 401, 403})  # to a login; 400 is what HPE's iLO says
_NO_SESSIONS: Final = frozenset({404, 405, 410, 501})
_WITHOUT_LOGIN: Final[Mapping[str, str]] = {}


class Answer(NamedTuple):
    """A good answer."""

    document: Mapping[str, object]
    etag: str
    date: str
    sent_ns: int  # monotonic, just before the question
    got_ns: int  # and after the answer


class _Adapter(HTTPAdapter):
    """Speaks TLS as our settings want it; a fingerprint is compared before anything is sent."""

    def __init__(self, context: ssl.SSLContext, fingerprint: str) -> None:
        self._pool_options: dict[str, Any] = {"ssl_context": context}
        if fingerprint:
            self._pool_options["assert_fingerprint"] = fingerprint
        super().__init__(max_retries=0)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Give the pool our own TLS context and fingerprint."""
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs, **self._pool_options)


class Client:
    """Asks one BMC; used by one thread at a time, `cut` excepted."""

    def __init__(self, bmc: Bmc, settings: Redfish, host: Host, clock: Clock) -> None:
        self._bmc = bmc
        self._settings = settings
        self._host = host
        self._clock = clock
        self._session: requests.Session | None = None
        self._line: Line | None = None
        self._token: Secret | None = None
        self._location = ""  # of our session
        self._login = SESSIONS  # where sessions are made; "": there are none
        self._is_known = False  # it has answered what it answers not everybody
        self._asked = ""  # the method of the question under way, but for the last
        self.is_stopped = False
        self.address: Final = urlsplit(bmc.endpoint).netloc
        self.requests = 0

    @property
    def authentication(self) -> str:
        """How it logs in: ``none``, ``session`` or ``basic``."""
        if not self._bmc.username:
            return "none"
        return "session" if self._login else "basic"

    def get(self, path: str) -> Answer:
        """Return the document at a path; RedfishError if there is no whole, good one in time."""
        raw = self._ask("GET", path, self._headers())
        if raw.status == 401 and self._token:
            self._token = None  # the session has expired
            raw = self._ask("GET", path, self._headers())
        if raw.status != 200:
            raise bad_status(raw, path, self._see(), is_login=self._is_refused(raw.status))
        self._is_known = self._is_known or path != ROOT
        try:
            document = parse_json(raw.body, MEMORY_LIMIT)
        except ValueError as exc:
            raise RedfishError(f"the answer is {exc} ({path})", self._see()) from None
        if not isinstance(document, dict):
            raise RedfishError(f"the answer is no JSON object ({path})", self._see())
        date, etag = raw.headers.get("Date", "")[:100], raw.headers.get("ETag", "")[:200]
        return Answer(document, etag, date, raw.sent_ns, raw.got_ns)

    def path_of(self, link: object) -> str | None:
        """Return the path that a link leads to, None where it leads to another host or nowhere."""
        if not isinstance(link, str):
            return None
        bare = link.partition("#")[0]
        if "://" in bare:
            scheme, _, rest = bare.partition("://")
            host, _, path = rest.partition("/")
            if scheme.lower() != "https" or host.lower() != self.address.lower():
                return None
            bare = f"/{path}"
        return bare if _PATH.fullmatch(bare) else None

    def sessions_at(self, path: str | None) -> None:
        """Make sessions there, as the service root tells; before the first of them."""
        if self._login and path:
            self._login = path

    def cut(self) -> None:
        """Stop, from another thread: no further question, and little time for one under way."""
        self.is_stopped = True
        if method := self._asked:
            timer = threading.Timer(GRACE_S[method], self._cut_question)
            timer.daemon = True
            timer.start()

    def _cut_question(self) -> None:
        if self._asked and self._line is not None:
            self._line.end()

    def close(self) -> None:
        """Log out, which the BMC has a second for, and close the connection."""
        if self._session is None:
            return
        if self._token and self._location:
            with suppress(RedfishError):  # it ends by itself, when nobody has used it for a while
                self._ask("DELETE", self._location, self._token_header(self._token), CLOSE_S)
        self._token = None
        self._session.close()
        self._session = self._line = None

    def _headers(self) -> Mapping[str, str]:
        """Return what proves who asks; logs in where that is needed."""
        if not self._bmc.username:
            return _WITHOUT_LOGIN
        if self._login and not self._token:
            self._log_in()
        if self._token:
            return self._token_header(self._token)
        pair = f"{self._bmc.username}:{self._bmc.password.reveal()}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}

    def _is_refused(self, status: int) -> bool:
        """Say whether a status refuses the user; a 403 to one that is let in is of one resource."""
        return status == 401 or (status == 403 and not self._token and not self._is_known)

    def _token_header(self, token: Secret) -> Mapping[str, str]:
        return {"X-Auth-Token": token.reveal()}

    def _log_in(self) -> None:
        """Make a session; where the BMC has none, the password goes with every question."""
        login = {"UserName": self._bmc.username, "Password": self._bmc.password.reveal()}
        raw = self._ask("POST", self._login, _WITHOUT_LOGIN, document=login)
        if raw.status in _NO_SESSIONS:
            self._login = ""
            return
        token = raw.headers.get("X-Auth-Token", "")
        if raw.status not in (200, 201, 202):
            is_login = raw.status in _REFUSED
            raise bad_status(raw, "", self._see(), is_login=is_login)
        if not _TOKEN.fullmatch(token) or len(token) > TOKEN_LIMIT:
            raise RedfishError("the BMC made a session and gave no token", self._see(), raw.status)
        self._token = Secret(token)
        self._location = self.path_of(raw.headers.get("Location")) or ""

    def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        timeout_s: float | None = None,
        document: Mapping[str, str] | None = None,
    ) -> Raw:
        """Ask once; RedfishError where no whole answer of bounded length comes in time."""
        timeout_s = timeout_s or self._settings.timeout
        session, line = self._opened()
        url = self._bmc.endpoint + path
        deadline_s = time.monotonic() + timeout_s
        self.requests += 1
        try:
            with self._asking(method), _ended_after(timeout_s, line):
                sent_ns = self._clock.now_ns()
                with ask(session, url, timeout_s, headers, method, document) as response:
                    body = self._body(response, path)
                return Raw(
                    response.status_code, response.headers, body, sent_ns, self._clock.now_ns()
                )
        except requests.RequestException as exc:
            if time.monotonic() >= deadline_s:
                raise self._timed_out() from None
            raise self._refusal(exc) from None

    @contextmanager
    def _asking(self, method: str) -> Iterator[None]:
        """Let `cut` know; the question that ends a session is asked nevertheless."""
        if method == "DELETE":
            yield
            return
        self._asked = method  # before the other: `cut` takes them the other way round
        try:
            if self.is_stopped:
                raise RedfishError("stopped", "tychod ends")
            yield
        finally:
            self._asked = ""

    def _body(self, response: requests.Response, path: str) -> bytes:
        body = bytearray()
        for chunk in read_body(response, _CHUNK):
            body += chunk
            if len(body) > BODY_LIMIT:
                limit = f"{BODY_LIMIT >> 20} MiB"
                raise RedfishError(f"the answer is longer than {limit} ({path})", self._see())
        return bytes(body)

    def _opened(self) -> tuple[requests.Session, Line]:
        if self._session is not None and self._line is not None:
            if not self._line.is_ended:
                return self._session, self._line
            self._session.close()
        return self._renewed()

    def _renewed(self) -> tuple[requests.Session, Line]:
        settings = self._settings
        session = new_session()
        context = self._tls_context()
        fingerprint = settings.fingerprint.replace(":", "").lower()
        session.mount("https://", _Adapter(context, fingerprint))
        session.verify = not (settings.insecure or fingerprint) and (
            settings.ca_file or system_ca()
        )
        if settings.insecure:
            # `status` says it: not once more with every request.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        line = Line(session)
        self._session, self._line = session, line
        return session, line

    def _tls_context(self) -> ssl.SSLContext:
        settings = self._settings
        ca_file = settings.ca_file
        try:
            if ca_file and not self._host.read_regular(ca_file, 1):
                raise RedfishError(f"ca_file {ca_file}: no such file", "see [redfish] ca_file")
            context = ssl.create_default_context(cafile=ca_file or None)
        except ValueError:  # a NUL in its name
            raise RedfishError(f"ca_file {ca_file!r} is no path", "see [redfish] ca_file") from None
        except OSError as exc:
            why = "not usable" if isinstance(exc, ssl.SSLError) else exc.strerror
            remedy = "give [redfish] ca_file a PEM file that tychod's user may read"
            raise RedfishError(f"ca_file {ca_file}: {why}", remedy) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The serving certificate itself may be the trust anchor, without the CA that signed it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # urllib3 1.26 gives OpenSSL no name to check where it is an address, and checks it itself.
        context.check_hostname = not _is_address(urlsplit(self._bmc.endpoint).hostname or "")
        if settings.insecure or settings.fingerprint:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _see(self) -> str:
        return f"see what answers at {self.address}; tychod speaks Redfish to it"

    def _timed_out(self) -> RedfishError:
        return RedfishError(
            f"timed out after {self._settings.timeout:g} s",
            "see whether the BMC is overloaded, or raise [redfish] timeout",
        )

    def _refusal(self, exc: requests.RequestException) -> RedfishError:
        """Say in a few words why a request failed, by what lies below the library's exception."""
        causes = tuple(causes_of(exc))
        if found := first_of(causes, ssl.SSLCertVerificationError):
            return unverified(found, self.address)
        if first_of(causes, CertificateError):
            return misnamed(self.address)
        if any(isinstance(cause, BROKEN) for cause in causes):
            return RedfishError("the connection broke off", "it is asked again")
        if tls_error := first_of(causes, ssl.SSLError):
            reason = tls_error.reason or "unknown error"
            return RedfishError(f"no TLS with it ({reason})", f"see what answers at {self.address}")
        if self._settings.fingerprint and first_of(causes, urllib3.exceptions.SSLError):
            return RedfishError(
                "the BMC's certificate is not the one of [redfish] fingerprint",
                "nothing was sent to it; if its certificate was renewed, set the new fingerprint",
            )
        return self._unreached(causes)

    def _unreached(self, causes: tuple[BaseException, ...]) -> RedfishError:
        see = "see whether the BMC runs, and the endpoint in the credentials"
        if first_of(causes, ConnectionRefusedError):
            return RedfishError(f"connection refused by {self.address}", see)
        # urllib3 1.26 counts a connection that could not be made among its time-outs.
        if not first_of(causes, urllib3.exceptions.NewConnectionError) and any(
            isinstance(cause, TIMEOUTS) for cause in causes
        ):
            return self._timed_out()
        if first_of(causes, urllib3.exceptions.ProtocolError):
            return RedfishError("the answer broke off", "it is asked again")
        return RedfishError(f"no connection to {self.address} ({errno_text(causes)})", see)


@contextmanager
def _ended_after(timeout_s: float, line: Line) -> Iterator[None]:
    """Bound the whole exchange: the library's time-out is for one wait only."""
    timer = threading.Timer(timeout_s, line.end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
