"""A GGUF file taken apart and put together again, so that its parts can be damaged one by one."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random

from .mutate import damage_bytes

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_COUNTS = (0, 1, 2, 3, 100, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**61, 2**62, 2**63, 2**64 - 1)
_TYPES = (*range(14), 100, 2**32 - 1)


@dataclass
class Layout:
    """What a file holds: entries are (name, type, bytes of the value), tensors their descriptions."""

    version: int
    entries: list[list]
    tensors: list[list]  # name, dimensions, type, offset
    data: bytes
    more_entries: int = 0  # that the header says there are
    more_tensors: int = 0

    def to_bytes(self) -> bytes:
        counts = (
            (len(self.tensors) + self.more_tensors) % 2**64,
            (len(self.entries) + self.more_entries) % 2**64,
        )
        out = b"GGUF" + struct.pack("<IQQ", self.version, *counts)
        for name, kind, value in self.entries:
            out += _text(name) + struct.pack("<I", kind) + value
        for name, shape, kind, offset in self.tensors:
            out += _text(name) + struct.pack("<I", len(shape))
            out += b"".join(struct.pack("<Q", size % 2**64) for size in shape)
            out += struct.pack("<IQ", kind, offset % 2**64)
        return out + bytes(-len(out) % 32) + self.data


def parse(data: bytes) -> Layout:
    """Of a valid file."""
    at = 4

    def take(layout: str) -> tuple:
        nonlocal at
        at += struct.calcsize("<" + layout)
        return struct.unpack_from("<" + layout, data, at - struct.calcsize("<" + layout))

    def text() -> bytes:
        nonlocal at
        (length,) = take("Q")
        at += length
        return data[at - length : at]

    def skip(kind: int) -> None:
        nonlocal at
        if kind == _STRING:
            text()
        elif kind == _ARRAY:
            item, count = take("IQ")
            for _ in range(count):
                skip(item)
        else:
            at += _SIZES[kind]

    version, tensors, entries = take("IQQ")
    layout = Layout(version, [], [], b"")
    for _ in range(entries):
        name, (kind,), begin = text(), take("I"), at
        skip(kind)
        layout.entries.append([name, kind, data[begin:at]])
    for _ in range(tensors):
        name, (count,) = text(), take("I")
        layout.tensors.append([name, list(take(f"{count}Q")), *take("IQ")])
    layout.data = data[at + -at % 32 :]
    return layout


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def damage_gguf(random: Random, data: bytes) -> bytes:
    """Entries and tensors are changed, lost, doubled; lengths and counts lie; or bytes, or both."""
    what = random.random()
    if what < 0.25:
        return damage_bytes(random, data)
    layout = parse(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        _damage_part(random, layout)
    out = layout.to_bytes()
    return damage_bytes(random, out) if what < 0.35 else out


def _damage_part(random: Random, layout: Layout) -> None:
    what = random.random()
    if what < 0.05:
        layout.version = random.choice((0, 1, 2, 4, 2**31))
    elif what < 0.12:
        layout.more_entries, layout.more_tensors = random.choice(_COUNTS), random.choice(_COUNTS)
    elif what < 0.16:
        layout.data = layout.data[: random.randrange(len(layout.data) + 1)]
    elif what < 0.66:
        _damage_entry(random, layout)
    else:
        _damage_tensor(random, layout)


def _damage_entry(random: Random, layout: Layout) -> None:
    if not layout.entries:
        return
    at = random.randrange(len(layout.entries))
    entry = layout.entries[at]
    what = random.randrange(8)
    if what == 0:
        del layout.entries[at]
    elif what == 1:
        layout.entries.insert(at, list(random.choice(layout.entries)))
    elif what == 2:
        entry[0] = random.choice(
            (*(e[0] for e in layout.entries), b"", b"\xff\xfe", b"general.alignment")
        )
    elif what == 3:
        entry[1] = random.choice(_TYPES)
    elif what == 4:
        entry[2] = damage_bytes(random, entry[2])
    else:
        layout.entries[at] = [entry[0], *_value(random)]


def _value(random: Random) -> tuple[int, bytes]:
    """Some value of some type, few of them what a reader expects."""
    what = random.randrange(6)
    if what == 0:
        kind = random.choice(tuple(_SIZES))
        return kind, random.choice(_COUNTS).to_bytes(8, "little")[: _SIZES[kind]]
    if what == 1:
        return 6, struct.pack(
            "<f", random.choice((0.0, -1.0, 1e38, float("nan"), float("inf"), 1e-45))
        )
    if what == 2:
        return _STRING, _text(random.choice((b"", b"llama", b"gpt2", b"\xed\xa0\x80", b"x" * 5000)))
    if what == 3:  # an array that says it is long
        return _ARRAY, struct.pack("<IQ", random.choice(_TYPES), random.choice(_COUNTS)) + bytes(64)
    if what == 4:  # arrays in arrays
        return _ARRAY, struct.pack("<IQ", _ARRAY, 1) * random.choice((1, 2, 3, 1000)) + struct.pack(
            "<IQ", 0, 0
        )
    texts = [
        random.choice((b"a", b"b", b"ab", b"", b"a b", b"\xff", b"a b c"))
        for _ in range(random.randrange(9))
    ]
    return _ARRAY, struct.pack("<IQ", _STRING, len(texts)) + b"".join(map(_text, texts))


def _damage_tensor(random: Random, layout: Layout) -> None:
    if not layout.tensors:
        return
    at = random.randrange(len(layout.tensors))
    tensor = layout.tensors[at]
    what = random.randrange(7)
    if what == 0:
        del layout.tensors[at]
    elif what == 1:
        layout.tensors.insert(at, list(random.choice(layout.tensors)))
    elif what == 2:
        tensor[0] = random.choice(
            (*(t[0] for t in layout.tensors), b"", b"\xff\xfe", b"rope_freqs.weight")
        )
    elif what == 3:
        tensor[1] = [
            random.choice((*tensor[1], *_COUNTS))
            for _ in range(random.choice((0, 1, 2, 3, 4, 5, 200)))
        ]
    elif what == 4:
        tensor[1] = [size + random.choice((-1, 0, 1, 32)) for size in tensor[1]]
    elif what == 5:
        tensor[2] = random.choice((*range(42), 2**31, 2**32 - 1))
    else:
        tensor[3] = random.choice(
            (*_COUNTS, tensor[3] + 1, tensor[3] + 32, len(layout.data), 2**64 - 32)
        )
