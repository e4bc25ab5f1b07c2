"""Ctrl-C that no library loses: Python drops a KeyboardInterrupt that a callback of a library raises."""

from __future__ import annotations

import signal
import threading
from types import FrameType

_pressed = threading.Event()


def remember() -> None:
    """From now on Ctrl-C interrupts as before, and `check` knows of it. For the main thread."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        _pressed.set()
        raise KeyboardInterrupt

    _pressed.clear()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handle)


def check() -> None:
    """Raises the KeyboardInterrupt that got lost since `remember`, if one did."""
    if _pressed.is_set():
        _pressed.clear()
        raise KeyboardInterrupt
