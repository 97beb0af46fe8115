"""One HTTP question to a peer on this host, whose cost is bounded whoever answers.

Imports `requests`, so it is itself imported only once there is somebody to ask.
"""

from collections.abc import Mapping

import requests


def ask(
    session: requests.Session, url: str, timeout_s: float, headers: Mapping[str, str] | None = None
) -> requests.Response:
    """Return the answer to one GET with its body unread; a redirect is an answer like any other.

    `Session.get` would work out where a redirect leads though it is told not to follow it: it
    reads that body whole, without a limit, and raises what is none of its own exceptions.
    """
    request = session.prepare_request(requests.Request("GET", url, headers=dict(headers or {})))
    verify = True if session.verify is None else session.verify
    timeouts_s = (timeout_s, timeout_s)
    return session.get_adapter(url).send(request, stream=True, timeout=timeouts_s, verify=verify)
