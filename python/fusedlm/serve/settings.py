"""What a server may be told, checked."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """max_running texts are made at a time and max_waiting more wait; beyond that requests are
    turned away. timeout: seconds for one request, waiting included. grace: seconds that requests
    have to end when the server stops. max_body: bytes. hosts: names other than loopback's that a
    server on loopback answers to. Raises ValueError naming the field."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_running: int = 16
    max_waiting: int = 64
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
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            self._bad("max_new_tokens", "at least 1")
        for name in ("timeout", "grace"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                self._bad(name, "seconds, at least 0")
        if self.api_key is not None and not self.api_key.strip():
            self._bad("api_key", "a key that is not empty")

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

    def _bad(self, name: str, expected: str) -> None:
        raise ValueError(f"serve: {name} is {getattr(self, name)!r}, expected {expected}")
