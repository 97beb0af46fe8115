"""Why a BMC gave no answer that can be used, in short, and what a person can do."""

import re
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple

from tychod.http_line import HOSTNAME_MISMATCH, OUT_OF_DATE

_SECONDS: Final = re.compile(r"[0-9]{1,6}")
_MISSING: Final = frozenset({400, 403, 404, 405, 406, 410, 500, 501})


class Raw(NamedTuple):
    """An answer of any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_ns: int
    got_ns: int


class RedfishError(Exception):
    """The BMC gave no answer that can be used: why, and what a person can do."""

    def __init__(
        self,
        reason: str,
        remedy: str,
        status: int = 0,
        retry_s: float = 0.0,
        *,
        is_login: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.status = status  # of HTTP; 0: there was no answer
        self.retry_s = retry_s  # the BMC asks to be left alone for so long
        self.is_login = is_login  # user or password refused: another try may lock the account

    @property
    def is_missing(self) -> bool:
        """Say whether it is this one resource that the BMC cannot give."""
        return not self.is_login and self.status in _MISSING


def bad_status(raw: Raw, path: str, see: str, *, is_login: bool) -> RedfishError:
    """Return what a status other than 200 says; ``path`` "": of the login, which is no resource."""
    retry = raw.headers.get("Retry-After", "").strip()
    retry_s = float(retry) if _SECONDS.fullmatch(retry) else 0.0
    status = raw.status
    if is_login:
        return RedfishError(
            f"user or password refused (HTTP {status})",
            "check them; it is tried again very seldom, so that the account is not locked,"
            " and at once after a restart of tychod",
            status,
            is_login=True,
        )
    if not path and status in _MISSING:
        return RedfishError(f"the login failed (HTTP {status})", see, 0, retry_s)
    if status == 403:
        return RedfishError(
            f"not permitted (HTTP 403, {path})",
            "let the user read it; a password that must be changed first shows so, too",
            status,
        )
    where = path or "the login"
    if 300 <= status < 400:
        return RedfishError(
            f"the BMC sends us elsewhere (HTTP {status}, {where})",
            "tychod follows no redirect: give the address that really answers",
            status,
        )
    if status in (429, 503):
        reason = f"the BMC is busy (HTTP {status})"
        return RedfishError(reason, "it is asked again later", status, retry_s)
    return RedfishError(f"HTTP {status} ({where})", see, status, retry_s)


def misnamed(address: str) -> RedfishError:
    """Return what to tell of a certificate for another name."""
    return RedfishError(
        f"the BMC's certificate is not for the name of {address}",
        "use the name in the certificate as its address, or set [redfish] fingerprint",
    )


def unverified(cause: ssl.SSLCertVerificationError, address: str) -> RedfishError:
    """Return what to tell of a certificate that is not trusted, and why."""
    if cause.verify_code in HOSTNAME_MISMATCH:
        return misnamed(address)
    if cause.verify_code in OUT_OF_DATE:
        return RedfishError(
            f"the BMC's certificate is out of date ({cause.verify_message})",
            "check this machine's clock; if it is right, renew the certificate",
        )
    return RedfishError(
        f"the BMC's certificate is not trusted ({cause.verify_message})",
        "set [redfish] ca_file to the CA that signed it, or fingerprint to its SHA-256 (openssl"
        f" s_client -connect {address} </dev/null | openssl x509 -noout -fingerprint"
        " -sha256), compared with what the BMC itself shows",
    )
