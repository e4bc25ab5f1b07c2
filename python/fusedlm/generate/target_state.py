"""Targets of an encoder-decoder token by token: what was computed once is kept, and nothing is moved.

Keys and values lie in pages of one token each, and every row of a search has a table of its pages
(`block_table` of `ops.attention`). So a row that goes on from another takes over its table, a few
integers, instead of a copy of its keys and values; and all rows of a sentence read the same keys of
its source, which are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusedlm import ops
from fusedlm.models.copying import LOOK_BACK, STRETCH
from fusedlm.models.encoder_decoder import EncoderDecoder, Layer, Source, added
from fusedlm.models.packed import Packed

# Products of up to 4 rows, and attention of sequences of up to 4 tokens, are computed by kernels of
# their own, which add in another order. With more at all times, no row's bits depend on the others.
FEWEST = 5
_PAGES = 1024  # at first; they double when they are full


class _Pages:
    """Keys and values of one layer, [pages, 1, H, D] each."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value

    def write(self, start: int, key: Tensor, value: Tensor) -> None:
        """key, value [R, 1, H, D] into pages `start` and on."""
        end = start + len(key)
        if end > len(self.key):
            self.key, self.value = _longer(self.key, end), _longer(self.value, end)
        self.key[start:end], self.value[start:end] = key, value


def _longer(pages: Tensor, least: int) -> Tensor:
    more = pages.new_empty(max(2 * len(pages), least), *pages.shape[1:])
    more[: len(pages)] = pages
    return more


class TargetState:
    """Rows of targets that grow together, `beam` for each sentence of `sentences`.

    sources: tokens of all sources, each with its examples. A sentence may be named several times.
    """

    def __init__(
        self, model: EncoderDecoder, sources: Sequence[Source], sentences: Sequence[int],
        beam: int,
    ) -> None:  # fmt: skip
        self.model, self.beam = model, beam
        filler = [[model.config.end_id] * FEWEST]
        packed = model.pack_sources([*sources, filler])
        memory = model.encode(packed)
        self._layers = [layer for layer in model.decoder if isinstance(layer, Layer)]
        self._source = [_source_pages(layer, memory) for layer in self._layers]
        self._source_table, self._source_lengths = _tables(packed)
        H, D = model.config.heads, model.config.head_width
        shape = (_PAGES, 1, H, D)
        self._pages = [
            _Pages(memory.new_empty(shape), memory.new_empty(shape)) for _ in self._layers
        ]
        self._used = 0
        self._table = torch.empty(len(sentences) * beam, 0, dtype=torch.int32)
        self._sentences = torch.tensor(sentences)
        self._written = torch.full(
            (len(sentences) * beam, LOOK_BACK), -2
        )  # the last tokens, backwards
        self._copyable = None
        if model.copying is not None:
            self._copyable = model.copying.copyable(packed, memory, STRETCH)

    def select(self, sentences: Tensor, rows: Tensor) -> None:
        """Goes on with these: indices into the sentences, and into the rows, that there are now."""
        self._sentences = self._sentences[sentences]
        self._table = self._table[rows]
        self._written = self._written[rows]

    def step(self, tokens: Tensor) -> Tensor:
        """tokens [R] int64, the next of each row -> log-probabilities [R, V] of what follows."""
        model, R, T = self.model, len(tokens), self._table.shape[1]
        self._written = torch.cat([tokens[:, None], self._written[:, :-1]], dim=1)
        new = torch.arange(self._used, self._used + R, dtype=torch.int32)
        self._table = torch.cat([self._table, new[:, None]], dim=1)
        position = torch.full((R, 1), T)
        source_table = self._source_table[self._sentences]
        source_lengths = self._source_lengths[self._sentences]
        lengths = torch.full((R,), T + 1, dtype=torch.int32)

        branch, stream = model.embed(tokens[:, None], position), None
        for layer, pages, source in zip(self._layers, self._pages, self._source, strict=True):
            x, stream = added(layer.attention_norm, branch, stream)
            qkv = layer.attention.turned(x, model.rope, position)
            query, key, value = qkv.chunk(3, dim=2)
            pages.write(self._used, key, value)
            mixed = ops.attention(
                query, pages.key, pages.value, kv_lengths=lengths, block_table=self._table
            )
            assert layer.cross is not None and layer.cross_norm is not None  # a decoder's
            x, stream = layer.cross_norm(layer.attention.out(mixed.flatten(2)), residual=stream)
            query = layer.cross.queries(x)
            query = query.view(-1, self.beam, *query.shape[1:]).squeeze(2)
            mixed = ops.attention(
                query, source.key, source.value, kv_lengths=source_lengths,
                block_table=source_table,
            )  # fmt: skip
            branch = layer.cross.out(mixed.reshape(R, 1, -1))
            x, stream = layer.ffn_norm(branch, residual=stream)
            branch = layer.ffn(x)
        self._used += R
        x, _ = model.final_norm(branch, residual=stream)
        logits = ops.linear(x[:, 0], model.embedding.weight)
        if self._copyable is None or model.copying is None:
            return logits.float().log_softmax(-1)
        row = self._sentences.repeat_interleave(self.beam)
        return model.copying.log_probabilities(x[:, 0], logits, self._copyable[row], self._written)


def _source_pages(layer: Layer, memory: Tensor) -> _Pages:
    assert layer.cross is not None  # a decoder's
    key, value = layer.cross.keys_and_values(memory)
    return _Pages(key.transpose(0, 1).contiguous(), value.transpose(0, 1).contiguous())


def _tables(packed: Packed) -> tuple[Tensor, Tensor]:
    """Which pages are a source's [n, S] int32, and how many."""
    lengths = packed.lengths
    last = packed.starts[1:, None] - 1
    table = packed.starts[:-1, None] + torch.arange(int(lengths.max()), dtype=torch.int32)
    return table.minimum(last), lengths
