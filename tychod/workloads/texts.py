"""Texts from outside as plain data: of bounded length, and always encodable.

Control characters stay: whoever shows a name escapes it, and whoever selects by it finds it.
"""

from typing import Final

NAME_MOST: Final = 253
"""Characters in the longest name that Kubernetes allows (a DNS subdomain)."""
LABEL_MOST: Final = 256
"""Characters in the longest label that is believed; Kubernetes' own limit is 63."""
CUT: Final = "…"


def bounded(text: str, most: int = NAME_MOST) -> str:
    """Return a text of at most ``most`` characters, the last one a mark where it was cut.

    Half of a surrogate pair, which JSON and file names can hold and UTF-8 cannot, becomes "?".
    """
    if not text.isascii():
        text = text.encode(errors="replace").decode()
    return text if len(text) <= most else text[: most - 1] + CUT
