"""Removes passwords and terminal control characters from text that is shown or stored.

``masked`` removes the secrets from URLs, ``visible`` escapes control characters (file names may
contain any), ``shown`` does both. It is applied to all that the console prints and to every error.
"""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
# scheme://user:password@host. A password may hold anything but spaces, by mistake also a slash;
# digits and a slash after a colon are a port.
_PORT = r"(?!\d+(?:[/\s\"',?#]|$))"
_PASSWORD = re.compile(rf"([A-Za-z][\w+.-]*://[^\s/@:\"'<>,]*):{_PORT}(?:[^\s/<>]*@|[^\s\"'<>]*@)")
# user:password@host without a scheme, or with one slash: a URL with a mistake in it
_BARE = re.compile(rf"(?<![\w.+-])([\w.+-]+):{_PORT}[^\s/@:\"'<>]+@(?=[\w\[])")
_TOKEN_ALONE = re.compile(r"(https?://)[^\s/@:\"'<>,]+@", re.IGNORECASE)
_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s\"'<>]+")
# parameters of presigned and other links that grant access
_SECRET = r"token|sig|credential|secret|passw|pwd|key|auth|policy|hash|code"
_PARAMETER = re.compile(rf"([?&;#](?:[^=&\s]*(?:{_SECRET})[^=&\s]*)=)[^&#\s]+", re.IGNORECASE)
# C0 except tab and newline, DEL, C1, line separators, marks of the writing direction, and halves
# of surrogate pairs, which cannot be encoded
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def masked(text: str) -> str:
    """The text with ``***`` in place of passwords and tokens in URLs."""
    if "://" not in text:
        return text
    text = _PASSWORD.sub(rf"\1:{MASK}@", text)
    text = _TOKEN_ALONE.sub(rf"\1{MASK}@", text)
    return _URL.sub(lambda url: _PARAMETER.sub(rf"\1{MASK}", url[0]), text)


def visible(text: str) -> str:
    """The text with control characters of terminals escaped, such as ``\\x1b``."""
    return _ACTING.sub(lambda found: ascii(found[0])[1:-1], text)


def shown(text: str) -> str:
    """The text as it may be printed: ``masked``, also for mistyped URLs, and ``visible``."""
    text = masked(text)
    return visible(_BARE.sub(rf"\1:{MASK}@", text) if "@" in text else text)


def masked_values(content: Any) -> Any:
    """JSON-ready content with every string masked."""
    if isinstance(content, str):
        return masked(content)
    if isinstance(content, dict):
        return {masked_values(key): masked_values(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [masked_values(value) for value in content]
    return content


def visible_json(text: str) -> str:
    """JSON text with control characters escaped (``\\u009b``); its content is the same."""
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
