"""The KV cache: keys and values of the tokens seen so far, so that a step costs one token."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedlm.models.config import ModelConfig


class LayerCache:
    """Keys and values [B, capacity, G, D] of one layer."""

    def __init__(self, owner: KVCache, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._owner = owner
        self.keys = torch.zeros(shape, dtype=dtype)
        self.values = torch.zeros(shape, dtype=dtype)

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Appends [B, T, G, D]; returns what attention takes: keys, values and kv_lengths."""
        owner, T = self._owner, key.shape[1]
        start, stop = owner.longest, owner.longest + T
        if owner.ragged and start:
            at = owner.lengths.long()[:, None] + torch.arange(T)
            rows = torch.arange(key.shape[0])[:, None]
            self.keys[rows, at], self.values[rows, at] = key, value
            return self.keys[:, :stop], self.values[:, :stop], owner.lengths + T
        self.keys[:, start:stop], self.values[:, start:stop] = key, value
        if start == 0:  # padding lies to the right, where a causal query does not look
            return key, value, None
        return self.keys[:, :stop], self.values[:, :stop], None


class KVCache:
    """Keys and values of every layer for `batch` rows of up to `capacity` tokens each.

    Rows start at index 0 and may differ in length (`lengths` [B] int32). A step is
    `begin`, then `extend` in every layer, then `commit`; `Decoder.forward` does all three.
    """

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.capacity = config.context if capacity is None else capacity
        if batch < 1:
            raise ValueError(f"KVCache: batch is {batch}, expected at least 1")
        if not 1 <= self.capacity <= config.context:
            raise ValueError(
                f"KVCache: capacity is {capacity}, expected 1 to the context of {config.context}"
            )
        shape = (batch, self.capacity, config.kv_heads, config.head_width)
        self.lengths = torch.zeros(batch, dtype=torch.int32)
        self.longest = 0
        self.ragged = False
        self.layers = [LayerCache(self, shape, dtype) for _ in range(config.layers)]
        self._added: Tensor | int = 0
        self._last: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.lengths.shape[0]

    def begin(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor | None:
        """Makes ready for tokens [B, T]; returns their positions, None meaning 0 to T - 1."""
        B, T = tokens.shape
        if self.batch != B:
            raise ValueError(f"KVCache: tokens has {B} rows, the cache has {self.batch}")
        if self.longest + T > self.capacity:
            raise ValueError(
                f"KVCache: {self.longest} cached and {T} new tokens exceed the capacity of "
                f"{self.capacity}"
            )
        self._added, self._last = T, None
        if lengths is not None:
            if self.longest:
                raise ValueError("KVCache: lengths is only for the first call on an empty cache")
            if lengths.shape != (B,) or int(lengths.min()) < 1 or int(lengths.max()) > T:
                raise ValueError(
                    f"KVCache: lengths is {lengths.tolist()}, expected {B} values from 1 to {T}"
                )
            self._added, self._last = lengths.to(torch.int32), lengths.long() - 1
        if self.longest == 0:
            return None
        new = torch.arange(T)
        return self.lengths.long()[:, None] + new if self.ragged else self.longest + new

    def last_rows(self, x: Tensor) -> Tensor:
        """x [B, T, C] -> [B, C]: the last token of each row that is not padding."""
        if self._last is None:
            return x[:, -1]
        return x[torch.arange(x.shape[0]), self._last]

    def commit(self) -> None:
        self.lengths = self.lengths + self._added
        self._measure()

    def select(self, rows: list[int]) -> None:
        """Keeps only these rows, in this order."""
        index = torch.tensor(rows, dtype=torch.int64)
        self.lengths = self.lengths[index]
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[index], layer.values[index]
        self._measure()

    def reset(self) -> None:
        """Empties the cache; its memory stays."""
        self.lengths = torch.zeros_like(self.lengths)
        self._measure()

    def _measure(self) -> None:
        self.longest = int(self.lengths.max())
        self.ragged = self.longest != int(self.lengths.min())
