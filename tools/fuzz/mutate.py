"""Ways to damage a file: of bytes, of lines, and of JSON as a tree. All draw from a seeded Random."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

_NUMBERS = (
    0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
_DIGITS = (
    b"0", b"-1", b"1", b"7", b"65536", b"2147483648", b"4294967296", b"9223372036854775808", b"1e9", b"1e400",
    b"-0.0", b"0.5", b"00", b"NaN", b"Infinity", b"9" * 400, b"9" * 5000,
)  # fmt: skip
_TOKENS = (
    b"null", b"true", b"{}", b"[]", b'""', b"[[[[", b"}", b",", b":", b'"', b"\\u0000", b"\\ud800", b"\xff\xfe",
    b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x00", b"\r", b"\n\n", b"\t", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
    b"\x0c", b"\x1c", b"\xc2\x85", b"&", b"%s", b"{{", b"../", b"a" * 300,
)  # fmt: skip
# What a value of JSON becomes. Text that json.dumps does not write is given as bytes.
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 65536, 2**31 - 1, 2**31, 2**53, 2**63, 2**64, 10**30, -(2**63), 0.5, -0.0,
    1e-300, 1e300, float("nan"), float("inf"), "", "a", "\x00", "\ud800", "é" * 40, "x" * 3000, [], {}, [[]],
    [None], {"": None}, [0, 1], ["a", "b"], {"a": 1}, b"1e999", b"9" * 5000, b"[" * 3000 + b"]" * 3000,
    b'{"a":' * 600 + b"1" + b"}" * 600,
)  # fmt: skip


class Pairs(list):
    """An object of JSON as (name, value), so that a name may be there twice."""


def damage_bytes(random: Random, data: bytes) -> bytes:
    """One to four changes of bytes, every second of them near the beginning, where the structure is."""
    out = bytearray(data)
    for _ in range(random.randint(1, 4)):
        if not out:
            break
        _BYTES[random.randrange(len(_BYTES))](random, out, _place(random, out))
    return bytes(out)


def _place(random: Random, out: bytearray) -> int:
    return random.randrange(len(out) if random.random() < 0.5 else min(len(out), 300))


def _flip(random: Random, out: bytearray, at: int) -> None:
    out[at] ^= 1 << random.randrange(8)


def _byte(random: Random, out: bytearray, at: int) -> None:
    out[at] = random.randrange(256)


def _truncate(random: Random, out: bytearray, at: int) -> None:
    del out[at:]


def _erase(random: Random, out: bytearray, at: int) -> None:
    del out[at : at + random.randint(1, 24)]


def _copy(random: Random, out: bytearray, at: int) -> None:
    to = random.randrange(len(out) + 1)
    out[to:to] = out[at : at + random.randint(1, 64)] * random.choice((1, 1, 1, 30))


def _number(random: Random, out: bytearray, at: int) -> None:
    width = random.choice((1, 2, 4, 8))
    value = random.choice((*_NUMBERS, len(out), at)) & (2 ** (8 * width) - 1)
    order = "little" if random.random() < 0.8 else "big"
    out[at : at + width] = value.to_bytes(width, order)


def _digits(random: Random, out: bytearray, at: int) -> None:
    begin = next((i for i in range(at, min(len(out), at + 200)) if 48 <= out[i] < 58), None)
    if begin is None:
        return
    end = begin
    while end < len(out) and 48 <= out[end] < 58:
        end += 1
    out[begin:end] = random.choice(_DIGITS)


def _token(random: Random, out: bytearray, at: int) -> None:
    token = random.choice(_TOKENS)
    out[at : at + (len(token) if random.random() < 0.5 else 0)] = token


_BYTES = (_flip, _byte, _truncate, _erase, _copy, _number, _digits, _token)


def damage_lines(random: Random, data: bytes) -> bytes:
    """Lines lost, repeated, swapped and joined; then, mostly, bytes too."""
    lines = data.splitlines(keepends=True)
    for _ in range(random.randint(0, 3)):
        if not lines:
            break
        at, to = random.randrange(len(lines)), random.randrange(len(lines))
        what = random.randrange(5)
        if what == 0:
            del lines[at]
        elif what == 1:
            lines.insert(to, lines[at])
        elif what == 2:
            lines[at], lines[to] = lines[to], lines[at]
        elif what == 3:
            lines[at] = lines[at].rstrip(b"\r\n")
        else:
            lines[at] = lines[at] * random.choice((2, 50))
    joined = b"".join(lines)
    return damage_bytes(random, joined) if random.random() < 0.8 else joined


def damage_json(random: Random, data: bytes) -> bytes:
    """Values of the tree become others, names are lost, doubled and swapped; now and then bytes too."""
    tree = json.loads(data, object_pairs_hook=Pairs)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        tree = _damage_node(random, tree)
    text = dumps(tree)
    return damage_bytes(random, text) if random.random() < 0.15 else text


def damage_json_lines(random: Random, data: bytes) -> bytes:
    """`damage_json` of one line, or `damage_lines` of all."""
    lines = data.split(b"\n")
    if random.random() < 0.3:
        return damage_lines(random, data)
    at = random.randrange(len(lines))
    if lines[at].strip():
        lines[at] = damage_json(random, lines[at])
    return b"\n".join(lines)


def _damage_node(random: Random, tree: Any) -> Any:
    """Walks down to some node, and changes it or what is in it."""
    here = tree
    path: list[tuple[Any, int]] = []
    while isinstance(here, list) and here and random.random() < 0.85:
        at = random.randrange(len(here))
        path.append((here, at))
        here = here[at][1] if isinstance(here, Pairs) else here[at]
    if not path:
        return _other(random, tree)
    holder, at = path[-1]
    what = random.random()
    if what < 0.55:
        _put(holder, at, _other(random, here))
    elif what < 0.7:
        del holder[at]
    elif what < 0.78:
        holder.insert(random.randrange(len(holder) + 1), holder[at])
    elif isinstance(holder, Pairs):
        other = random.randrange(len(holder))
        if what < 0.88:  # a name of this object, or one that nobody knows, for this value
            name = (
                holder[other][0]
                if random.random() < 0.7
                else random.choice(("", "x", "\x00", "\ud800"))
            )
            holder[at] = (name, here)
        else:
            _put(holder, at, holder[other][1])
    else:
        holder[at : at + 1] = [here] * random.choice((0, 2, 100))
    return tree


def _other(random: Random, value: Any) -> Any:
    """Another value: of the same kind but near the edge, or of any kind."""
    if type(value) is int and random.random() < 0.5:
        return random.choice(
            (value + 1, value - 1, -value, value * 2, value * 1000, value / 2, str(value))
        )
    if isinstance(value, str) and value and random.random() < 0.5:
        cut = random.randrange(len(value))
        return random.choice(
            (value[:cut], value * 2, value.upper(), value[cut:] + "é", [value], {value: value})
        )
    return copy.deepcopy(random.choice(_VALUES))  # which later damage changes


def _put(holder: list, at: int, value: Any) -> None:
    holder[at] = (holder[at][0], value) if isinstance(holder, Pairs) else value


def dumps(tree: Any) -> bytes:
    """JSON of a tree with `Pairs`, and with bytes where the text is to be just that."""
    if isinstance(tree, bytes):
        return tree
    if isinstance(tree, Pairs):
        parts = (json.dumps(name).encode() + b":" + dumps(value) for name, value in tree)
        return b"{" + b",".join(parts) + b"}"
    if isinstance(tree, dict):
        return dumps(Pairs(tree.items()))
    if isinstance(tree, list):
        return b"[" + b",".join(map(dumps, tree)) + b"]"
    return json.dumps(tree).encode()


def mostly(first: Mutation, second: Mutation, share: float = 0.75) -> Mutation:
    return lambda random, data: (first if random.random() < share else second)(random, data)


def damage_safetensors(random: Random, data: bytes) -> bytes:
    """The header as JSON, with or without the length that it has then; or bytes, the data among them."""
    (length,) = struct.unpack_from("<Q", data)
    header, rest = data[8 : 8 + length], data[8 + length :]
    what = random.random()
    if what < 0.3:
        return damage_bytes(random, data)
    header = damage_json(random, header)
    if what < 0.4:
        rest = damage_bytes(random, rest)
    if what < 0.45:
        rest = rest[: random.randrange(len(rest) + 1)]
    length = len(header) if what < 0.9 else random.choice((*_NUMBERS, length, len(header) + 1))
    return struct.pack("<Q", length) + header + rest
