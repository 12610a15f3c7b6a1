"""The host names under which the page is served, and the check of request origins."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def host_of(value: str) -> str:
    """The name in a Host header or the host part of an origin, without the port; "" if invalid."""
    try:
        return (urlsplit(f"//{value}").hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


class Hosts:
    """The host names under which the page may be requested."""

    def __init__(self, bound: str, proxies: Iterable[str] = ()) -> None:
        """``bound``: the address the server listens on. ``proxies``: names of reverse proxies."""
        self._proxies = {name.rstrip(".").lower() for name in proxies}
        self.local = bound in LOOPBACK
        self.names = {*LOOPBACK, bound.lower(), *self._proxies}
        if not self.local:
            name = socket.gethostname().lower()
            self.names |= {name, f"{name}.local", socket.getfqdn().lower()}
        self.names.discard("")

    def known(self, host_header: str) -> bool:
        """Whether the page is served under this name. A plain address cannot be rebound by DNS."""
        name = host_of(host_header)
        return name in self.names or (not self.local and _is_address(name))

    def same_origin(self, origin: str, host_header: str) -> bool:
        """Whether ``origin`` is the origin of this page, directly or behind the proxy."""
        try:
            netloc = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        return bool(netloc) and (netloc == host_header.lower() or host_of(netloc) in self._proxies)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
