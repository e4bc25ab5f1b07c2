"""What other projects call our parameters, one table a family and file format.

Our names are the keys: of a parameter outside the layers, or of one inside without "blocks.N.". A key
that ends in "." or "_" stands for everything that begins so (weight and bias). Several names mean
that their tensors, one below the other, are ours: query, key and value are one matrix here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Names:
    """`prefix` stands before all names but those in `bare`, and may be missing in a file.

    Tensors of our names in `transposed` lie as [in, out] in the file. `ignored` are beginnings or
    ends of names that a file may have beside the parameters; `older` are ends of names that older
    files have for others.
    """

    layer: str
    outer: dict[str, str]
    inner: dict[str, str | tuple[str, ...]]
    prefix: str = ""
    bare: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    older: tuple[tuple[str, str], ...] = ()

    def of(self, name: str) -> tuple[str, ...]:
        """What our parameter `name` is called, without the prefix."""
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            found = _look_up(self.inner, rest)
            return tuple(self.layer.format(layer) + theirs for theirs in found)
        return _look_up(self.outer, name)

    def full(self, name: str) -> tuple[str, ...]:
        """What it is called in a file that we write, with the prefix."""
        found = self.of(name)
        return found if name.startswith(self.bare or ("\0",)) else tuple(
            self.prefix + theirs for theirs in found
        )  # fmt: skip

    def without_prefix(self, name: str) -> str:
        """A name of a file as `of` gives it."""
        for before, now in self.older:
            if name.endswith(before):
                name = name.removesuffix(before) + now
        return name.removeprefix(self.prefix)

    def is_transposed(self, name: str, tensor: Tensor) -> bool:
        inside = name.split(".", 2)[2] if name.startswith("blocks.") else name
        return tensor.dim() == 2 and inside.startswith(self.transposed or ("\0",))

    def may_be_there(self, name: str) -> bool:
        return name.startswith(self.ignored or ("\0",)) or name.endswith(self.ignored or ("\0",))


def _look_up(table: Mapping[str, str | tuple[str, ...]], name: str) -> tuple[str, ...]:
    for ours, theirs in table.items():
        if name == ours or (ours[-1] in "._" and name.startswith(ours)):
            each = (theirs,) if isinstance(theirs, str) else theirs
            return tuple(t + name[len(ours) :] for t in each)
    raise KeyError(name)


# Llama, SmolLM2, Qwen2, Qwen3 and Mistral: the parameters that a config has not are not looked for.
LLAMA = Names(
    layer="layers.{}.",
    prefix="model.",
    outer={"embedding.": "embed_tokens.", "final_norm.": "norm.", "head.": "lm_head."},
    bare=("head.",),
    inner={
        "attention_norm.": "input_layernorm.",
        "attention.qkv.": ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."),
        "attention.query_norm.": "self_attn.q_norm.",
        "attention.key_norm.": "self_attn.k_norm.",
        "attention.out.": "self_attn.o_proj.",
        "ffn_norm.": "post_attention_layernorm.",
        "ffn.gate_": "mlp.gate_proj.",
        "ffn.up_": "mlp.up_proj.",
        "ffn.down_": "mlp.down_proj.",
    },
    ignored=("rotary_emb.inv_freq",),
)
GPT2 = Names(
    layer="h.{}.",
    prefix="transformer.",
    outer={
        "embedding.weight": "wte.weight", "embedding.position_weight": "wpe.weight",
        "final_norm.": "ln_f.", "head.": "lm_head.",
    },
    bare=("head.",),
    inner={
        "attention_norm.": "ln_1.", "attention.qkv.": "attn.c_attn.",
        "attention.out.": "attn.c_proj.", "ffn_norm.": "ln_2.", "ffn.up_": "mlp.c_fc.",
        "ffn.down_": "mlp.c_proj.",
    },
    transposed=("attention.qkv.", "attention.out.", "ffn."),
    ignored=(".attn.bias", ".attn.masked_bias"),
)  # fmt: skip
BERT = Names(
    layer="encoder.layer.{}.",
    prefix="bert.",
    outer={
        "token_weight": "embeddings.word_embeddings.weight",
        "position_weight": "embeddings.position_embeddings.weight",
        "type_weight": "embeddings.token_type_embeddings.weight",
        "embedding_norm.": "embeddings.LayerNorm.",
        "pooler.": "pooler.dense.",
        "classifier.": "classifier.",
    },
    bare=("classifier.",),
    inner={
        "qkv.": ("attention.self.query.", "attention.self.key.", "attention.self.value."),
        "out.": "attention.output.dense.",
        "attention_norm.": "attention.output.LayerNorm.",
        "ffn.up_": "intermediate.dense.",
        "ffn.down_": "output.dense.",
        "ffn_norm.": "output.LayerNorm.",
    },
    ignored=("embeddings.position_ids", "cls.", "lm_head.", "pooler."),
    older=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
)
ROBERTA = replace(BERT, prefix="roberta.")
# What classifies sequences is two layers, both outside the model.
ROBERTA_CLASSIFIER = replace(
    ROBERTA,
    outer={**BERT.outer, "pooler.": "classifier.dense.", "classifier.": "classifier.out_proj."},
    bare=("classifier.", "pooler."),
)
DISTILBERT = Names(
    layer="transformer.layer.{}.",
    prefix="distilbert.",
    outer={**BERT.outer, "pooler.": "pre_classifier."},
    bare=("classifier.", "pooler."),
    inner={
        "qkv.": ("attention.q_lin.", "attention.k_lin.", "attention.v_lin."),
        "out.": "attention.out_lin.",
        "attention_norm.": "sa_layer_norm.",
        "ffn.up_": "ffn.lin1.",
        "ffn.down_": "ffn.lin2.",
        "ffn_norm.": "output_layer_norm.",
    },
    ignored=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
)
_GGUF_OUTER = {
    "embedding.weight": "token_embd.weight", "embedding.position_weight": "position_embd.weight",
    "final_norm.": "output_norm.", "head.": "output.",
}  # fmt: skip
_GGUF_INNER = {
    "attention_norm.": "attn_norm.", "attention.query_norm.": "attn_q_norm.",
    "attention.key_norm.": "attn_k_norm.", "attention.out.": "attn_output.",
    "ffn_norm.": "ffn_norm.", "ffn.gate_": "ffn_gate.", "ffn.up_": "ffn_up.",
    "ffn.down_": "ffn_down.",
}  # fmt: skip
GGUF = Names(
    layer="blk.{}.",
    outer=_GGUF_OUTER,
    inner={**_GGUF_INNER, "attention.qkv.": ("attn_q.", "attn_k.", "attn_v.")},
    ignored=("rope_freqs.weight",),
)
GGUF_GPT2 = Names(
    layer="blk.{}.", outer=_GGUF_OUTER, inner={**_GGUF_INNER, "attention.qkv.": "attn_qkv."}
)
GGUF_BERT = Names(
    layer="blk.{}.",
    outer={
        "token_weight": "token_embd.weight", "position_weight": "position_embd.weight",
        "type_weight": "token_types.weight", "embedding_norm.": "token_embd_norm.",
    },
    inner={
        "qkv.": ("attn_q.", "attn_k.", "attn_v."), "out.": "attn_output.",
        "attention_norm.": "attn_output_norm.", "ffn.up_": "ffn_up.", "ffn.down_": "ffn_down.",
        "ffn_norm.": "layer_output_norm.",
    },
)  # fmt: skip
