"""What a server may be told, checked."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """max_running texts are made at a time and max_waiting more wait; beyond that requests are
    turned away. max_connections: by default 100 more than texts. timeout: seconds for one request,
    from its first byte to the last of its answer, waiting included. grace: seconds that requests
    have to end when the server stops. max_body: bytes. hosts: names other than loopback's that a
    server on loopback answers to. Raises ValueError naming the field."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_running: int = 16
    max_waiting: int = 64
    max_connections: int | None = None
    max_new_tokens: int | None = None
    timeout: float = 300.0
    grace: float = 30.0
    max_body: int = 4 * 2**20
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("port", 0), ("max_running", 1), ("max_waiting", 0), ("max_body", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                self._bad(name, f"an integer of at least {least}")
        if self.port > 65535:
            self._bad("port", "at most 65535")
        for name in ("max_connections", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                self._bad(name, "an integer of at least 1")
        for name in ("timeout", "grace"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                self._bad(name, "seconds, at least 0")
        # What a header carries the same way from every client; the message keeps it secret.
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise ValueError("serve: api_key is not one or more of ASCII's printable characters")

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def capacity(self) -> int:
        return self.max_running + self.max_waiting

    @property
    def most_connections(self) -> int:
        # Those beyond the capacity hear of it, and /health answers whatever else goes on.
        return self.max_connections or self.capacity + 100

    def _bad(self, name: str, expected: str) -> None:
        raise ValueError(f"serve: {name} is {getattr(self, name)!r}, expected {expected}")
