"""What is said about each part of the walk of an encoder-decoder."""

from __future__ import annotations

import math

from fusedlm.models import EncoderDecoder, ModelConfig

from . import words
from .words import Words

_IN_A_LAYER = (
    "attention_norm",
    "qkv",
    "used",
    "scores",
    "weights",
    "mixed",
    "out",
    "ffn",
    "layers",
)


def encoder_decoder(model: EncoderDecoder, T: int, S: int) -> Words:
    """The parts of the encoder are called source-..., those of the attention to the source cross-..."""
    config = model.config
    target = words.decoder_layers(_like(model, config.decoder_layers), T)
    source = words.decoder_layers(_like(model, config.layers), S)
    source.update(words.attention(config.head_width, causal=False, windows=False))
    title, text, formula = target["embedding"]
    parts = part = ""
    if config.examples:
        parts = (
            " In the source one more row says that it is of the source itself or of which example."
        )
        part = " (+ row of the part)"
    found: Words = {
        "tokens": (
            "Tokens",
            f"""The text is cut into {S - 1 - config.examples} pieces of a vocabulary of
            {config.vocab_size:,}; an end stands behind it{_of_examples(config.examples)}. The target is read
            from such an end on, {T} tokens, each of which is to say the next one.""",
            "",
        ),
        "embedding": (title, f"Source and target have one table. {text}{parts}", formula + part),
    }
    for name in _IN_A_LAYER:
        if name in source:
            title, text, formula = source[name]
            found[f"source-{name}"] = f"{title}, source", text, formula
    for name in _IN_A_LAYER:
        if name == "ffn":
            found.update(_cross(config.head_width, config.heads))
        if name in target:
            title, text, formula = target[name]
            found[name] = f"{title}, target", text, formula
    title, text, _ = found["layers"]
    found["layers"] = (
        title, text.replace("what attention and feed-forward", "what attention, source and feed-forward"),
        "x ← x + attention(norm(x));  x ← x + cross(norm(x));  x ← x + ffn(norm(x))",
    )  # fmt: skip
    return {**found, **_end(model)}


def _like(model: EncoderDecoder, layers: int) -> ModelConfig:
    """A decoder whose layers are like these."""
    config = model.config
    return ModelConfig(
        vocab_size=config.vocab_size, context=config.context, layers=layers, width=config.width,
        heads=config.heads, ffn_width=config.ffn_width, norm=config.norm,
        norm_eps=config.norm_eps, activation=config.activation, position=config.position,
        rope_base=config.rope_base, bias=config.bias, tied=True,
    )  # fmt: skip


def _of_examples(examples: int) -> str:
    if not examples:
        return ""
    what = "that of the example" if examples == 1 else f"those of the {examples} examples"
    return f" and then {what} that the model reads, of which there are none here"


def _cross(D: int, H: int) -> Words:
    each = words.attention(D, causal=False, windows=False)
    title, _, formula = each["scores"]
    return {
        "cross-attention_norm": (
            "Norm before looking at the source",
            "What the target's tokens are by now is brought to the same size again.",
            "",
        ),
        "cross-qkv": (
            "Queries of the target, keys and values of the source",
            f"""Each of the target's tokens asks, and the source's, as the encoder has left them, can be
            found and hand over: {D} numbers each, for {words.heads(H)}.""",
            "q = norm(x) Wqᵀ,  k = source Wkᵀ,  v = source Wvᵀ",
        ),
        "cross-scores": (
            f"{title}, target at source",
            f"""How well does the query of one of the target's tokens (row) fit the key of one of the
            source's (column)? Their product, divided by √{D}. Every one sees the whole source.""",
            formula,
        ),
        "cross-weights": ("Attention weights, target at source", *each["weights"][1:]),
        "cross-mixed": (
            "Mixed values of the source",
            "Each of the target's tokens gets the sum of the source's values, by weight.",
            each["mixed"][2],
        ),
        "cross-out": ("Output and residual, of the source", *each["out"][1:]),
    }


def _end(model: EncoderDecoder) -> Words:
    config = model.config
    found: Words = {
        "logits": (
            "Logits and probabilities",
            """A last norm, and the product with the embedding's table gives the logits; softmax makes
            probabilities of them. Row t says what comes after the target's token t."""
            + (
                " What is copied is added to them: these logits are log-probabilities."
                if config.examples
                else ""
            ),
            "p = (1 − g) softmax(norm(x) Eᵀ) + g · copied"
            if config.examples
            else "logits = norm(x) Eᵀ;  p = exp(logit) / Σ exp(logits)",
        ),
        "lens": words.lens("Last norm and head"),
        "loss": (
            "Loss",
            """Each of the target's tokens, and its end, is what the decoder should have said one place
            before. The loss is the mean of −log of the probabilities that it gave them.""",
            f"loss = mean(−log p(next token));  knowing nothing, log {config.vocab_size} ="
            f" {math.log(config.vocab_size):.2f}",
        ),
        **words.end("the target's next token", moved="the source"),
    }
    if config.examples:
        copying = (
            "Copying",
            """A share g of the probabilities is given to tokens of the source and its examples, by one
            more attention to them (See et al. 2017). Both know how many tokens before a place in the
            source are those that the target ends with.""",
            "g = σ(norm(x) wᵀ + b + of the match);  copied(token) = Σ weights of the places that hold it",
        )
        found = {"copying": copying, **found}
    return found
