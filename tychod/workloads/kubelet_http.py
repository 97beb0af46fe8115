"""One kept session with the kubelet: TLS, credential, limits, and a short reason for each failure.

Imports `requests`, so it is itself imported only once there is a kubelet to ask.  No reason or
representation holds a credential: texts of the libraries are classified, never passed on.
"""

import re
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from tychod.config import Kubelet
from tychod.hostfs import FileIdentity, Host
from tychod.http_line import (
    BROKEN,
    HOSTNAME_MISMATCH,
    OUT_OF_DATE,
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
from tychod.workloads.pods import Pod, PodsError, parse_pods

CA_FILES: Final = (
    "lib/kubelet/pki/kubelet.crt",  # a kubelet without configured certificates: with its own CA
    "lib/rancher/rke2/agent/server-ca.crt",
    "lib/rancher/k3s/agent/server-ca.crt",
    "snap/microk8s/current/certs/ca.crt",
)
"""Where, below /var, the CA of the kubelet's certificate is where none is configured."""
PORT: Final = 10250
"""Where a kubelet listens whose endpoint names no port; TLS alone would mean 443."""
BODY_LIMIT: Final = 8 << 20  # 3.4 kB a pod were measured: room for two thousand
TOKEN_LIMIT: Final = 64 << 10
_CHUNK: Final = 64 << 10
_TOKEN: Final = re.compile(rb"[\x21-\x7e]+")
_USER: Final = re.compile(r"\(user=(?P<user>[\w:.@-]{1,200})[,)]")
_UNREADABLE: Final = "let tychod's user read it, or run tychod with CAP_DAC_READ_SEARCH"


class KubeletError(Exception):
    """The kubelet gave no list of pods: why, and what a person can do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class _NodeAdapter(HTTPAdapter):
    """Speaks TLS to an address while it demands the certificate of the node's name."""

    def __init__(self, context: ssl.SSLContext, node_name: str) -> None:
        self._pool_options: dict[str, Any] = {"ssl_context": context, "server_hostname": node_name}
        super().__init__(max_retries=0)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Give the pool our own TLS context and server name."""
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs, **self._pool_options)


class _Open(NamedTuple):
    """A session and the files that it was made from."""

    session: requests.Session
    line: Line
    files: tuple[FileIdentity | None, ...]


class Exchange:
    """Asks one kubelet; used by one thread at a time."""

    def __init__(self, settings: Kubelet, host: Host, node_name: str) -> None:
        self._settings = settings
        self._host = host
        self._node_name = settings.node_name or node_name
        self._open: _Open | None = None
        self._token: tuple[FileIdentity | None, str] | None = None
        address = urlsplit(settings.endpoint)
        name = f"[{address.hostname}]" if ":" in (address.hostname or "") else address.hostname
        self._plain = settings.read_only_port > 0
        self.cost_ns = 0
        """CPU time that the last answer took to read and parse."""
        self._peer = f"{name}:{settings.read_only_port or address.port or PORT}"
        path = "/pods" if self._plain else f"{address.path.rstrip('/')}/pods"
        self._url = f"{'http' if self._plain else 'https'}://{self._peer}{path}"

    def read_pods(self) -> tuple[Pod, ...]:
        """Ask for the pods of this node; KubeletError if there is no whole, good answer in time."""
        timeout_s = self._settings.timeout
        session, headers = self._session(), self._headers()
        deadline_s = time.monotonic() + timeout_s
        try:
            with ask(session, self._url, timeout_s, headers) as response:
                if response.status_code != 200:
                    raise refusal_of_status(response.status_code, _excerpt(response), self._plain)
                return self._parsed(response, deadline_s)
        except requests.RequestException as exc:
            raise self._refusal(exc) from None
        except PodsError as exc:
            raise KubeletError(str(exc), f"see what answers at {self._url}") from None

    def cut(self) -> None:
        """End a question under way, from another thread."""
        if opened := self._open:
            opened.line.cut()

    def close(self) -> None:
        """Close the kept connection."""
        if self._open:
            self._open.session.close()
            self._open = None

    def _parsed(self, response: requests.Response, deadline_s: float) -> tuple[Pod, ...]:
        begin_ns = time.thread_time_ns()
        pods = parse_pods(self._body(response, deadline_s))
        self.cost_ns = time.thread_time_ns() - begin_ns
        return pods

    def _body(self, response: requests.Response, deadline_s: float) -> bytearray:
        body = bytearray()
        for chunk in read_body(response, _CHUNK):
            body += chunk
            if len(body) > BODY_LIMIT:
                limit = f"{BODY_LIMIT >> 20} MiB"
                raise KubeletError(f"the answer is longer than {limit}", f"see {self._url}")
            if time.monotonic() > deadline_s:
                raise self._timed_out()
        return body

    def _timed_out(self) -> KubeletError:
        return KubeletError(
            f"timed out after {self._settings.timeout:g} s",
            "see whether the kubelet is overloaded, or raise [kubelet] timeout",
        )

    def _session(self) -> requests.Session:
        """Return the session, a new one after any of its certificate files has been replaced."""
        ca_file = "" if self._plain else self._ca_file()
        settings = self._settings
        paths = (ca_file, settings.client_cert_file, settings.client_key_file)
        files = tuple(_identity(self._host, p) if p and not self._plain else None for p in paths)
        if self._open is None or self._open.files != files:
            self.close()
            session = self._new_session(ca_file)
            self._open = _Open(session, Line(session), files)
        return self._open.session

    def _new_session(self, ca_file: str) -> requests.Session:
        session = new_session()
        if self._plain:
            return session
        context = _tls_context(self._settings, ca_file)
        session.mount("https://", _NodeAdapter(context, self._node_name))
        session.verify = self._settings.verify_tls and (ca_file or system_ca())
        if not self._settings.verify_tls:
            # The configuration says it, doctor shows it: not once more with every request.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        return session

    def _ca_file(self) -> str:
        """Return the CA to verify with; empty: the system's."""
        if self._settings.ca_file:
            return self._settings.ca_file
        usual = (f"{self._host.var}/{path}" for path in CA_FILES)
        return next((path for path in usual if self._is_readable(path)), "")

    def _is_readable(self, path: str) -> bool:
        try:
            return bool(self._host.read_regular(path, 1))  # OpenSSL would wait at a pipe
        except OSError:
            return False

    def _headers(self) -> Mapping[str, str]:
        """Return the bearer token, re-read after its file has changed; never over plain HTTP."""
        path = self._settings.token_file
        if not path or self._plain:
            return {}
        identity = _identity(self._host, path)
        if self._token is None or self._token[0] != identity:
            self._token = (identity, _read_token(self._host, path))
        return {"Authorization": f"Bearer {self._token[1]}"}

    def _refusal(self, exc: requests.RequestException) -> KubeletError:
        """Say in a few words why a request failed, by what lies below the library's exception."""
        causes = tuple(causes_of(exc))
        if unverified := first_of(causes, ssl.SSLCertVerificationError):
            return self._unverified(unverified)
        if any(isinstance(cause, BROKEN) for cause in causes):
            return KubeletError(
                "the connection broke off",
                "it is asked again; if this stays, see whether it refuses the client certificate",
            )
        if tls_error := first_of(causes, ssl.SSLError):
            return _tls_refusal(tls_error.reason or "unknown error")
        return self._unreached(causes)

    def _unreached(self, causes: tuple[BaseException, ...]) -> KubeletError:
        if first_of(causes, ConnectionRefusedError):
            return KubeletError(
                f"connection refused by {self._peer}",
                "see whether the kubelet runs, and [kubelet] endpoint",
            )
        # urllib3 1.26 counts a connection that could not be made among its time-outs.
        if not first_of(causes, urllib3.exceptions.NewConnectionError) and any(
            isinstance(cause, TIMEOUTS) for cause in causes
        ):
            return self._timed_out()
        if first_of(causes, urllib3.exceptions.ProtocolError):
            remedy = "it is asked again; if this stays, see the kubelet's log"
            return KubeletError("the answer broke off", remedy)
        return KubeletError(
            f"no connection to {self._peer} ({errno_text(causes)})", "see [kubelet] endpoint"
        )

    def _unverified(self, cause: ssl.SSLCertVerificationError) -> KubeletError:
        if cause.verify_code in HOSTNAME_MISMATCH:
            return KubeletError(
                f"the kubelet's certificate is not for the name {self._node_name!r}",
                "set [kubelet] node_name to the name in the certificate",
            )
        if cause.verify_code in OUT_OF_DATE:
            return KubeletError(
                f"the kubelet's certificate is out of date ({cause.verify_message})",
                "check this machine's clock; if it is right, renew the certificate",
            )
        return KubeletError(
            f"the kubelet's certificate is not trusted ({cause.verify_message})",
            "set [kubelet] ca_file to the CA that signed it",
        )


def refusal_of_status(status: int, body: str, plain: bool = False) -> KubeletError:
    """Say what an HTTP status other than 200 means when the kubelet sends it."""
    if status == 401:
        return KubeletError(
            "credential refused (HTTP 401)",
            "it is asked again; check [kubelet] client_cert_file or token_file; with webhook"
            " authentication also whether the API server answers the kubelet",
        )
    if status == 403:
        user = _USER.search(body)
        return KubeletError(
            "the credential may not list pods (HTTP 403)",
            f"grant {user['user'] if user else 'its user'} `get` on `nodes/pods`"
            " (older kubelets: `nodes/proxy`)",
        )
    if status == 400 and plain:
        return KubeletError(
            "that port speaks HTTPS (HTTP 400)", "set [kubelet] read_only_port to 0"
        )
    if status >= 500:
        return KubeletError(
            f"the kubelet failed (HTTP {status})",
            "see its log; it fails so while it cannot reach the API server",
        )
    return KubeletError(f"unexpected answer (HTTP {status})", "see [kubelet] endpoint")


def _tls_context(settings: Kubelet, ca_file: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as exc:
        raise _bad_file("ca_file", ca_file, exc) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The serving certificate itself may be the trust anchor, without the CA that signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if not settings.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.client_cert_file:
        try:
            context.load_cert_chain(
                settings.client_cert_file, settings.client_key_file, password=_no_password
            )
        except OSError as exc:
            raise _bad_file("client_cert_file", settings.client_cert_file, exc) from None
    return context


def _no_password() -> str:
    """Answer for an encrypted key: without it OpenSSL would ask on the terminal."""
    return ""


def _bad_file(setting: str, path: str, exc: OSError) -> KubeletError:
    if isinstance(exc, ssl.SSLError):
        why = "its key does not fit" if exc.reason == "KEY_VALUES_MISMATCH" else "not usable"
        return KubeletError(f"{setting} {path}: {why}", f"give [kubelet] {setting} a PEM file")
    remedy = _UNREADABLE if isinstance(exc, PermissionError) else f"see [kubelet] {setting}"
    return KubeletError(f"{setting} {path}: {exc.strerror}", remedy)


def _identity(host: Host, path: str) -> FileIdentity | None:
    try:
        return host.identity(path)
    except OSError:
        return None  # reading it tells why


def _read_token(host: Host, path: str) -> str:
    try:
        data = host.read_regular(path, TOKEN_LIMIT)
    except OSError as exc:
        raise _bad_file("token_file", path, exc) from None
    token = (data or b"").strip()
    if not _TOKEN.fullmatch(token):
        raise KubeletError(f"token_file {path} holds no token", "write a token into it")
    return token.decode("ascii")


def _tls_refusal(reason: str) -> KubeletError:
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return KubeletError(
            f"client certificate refused ({reason})", "check [kubelet] client_cert_file"
        )
    return KubeletError(f"no TLS with it ({reason})", "see [kubelet] endpoint")


def _excerpt(response: requests.Response) -> str:
    return next(read_body(response, 512), b"").decode(errors="replace")
