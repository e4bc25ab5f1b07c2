"""What is said about each part of the walk: one or two sentences and the formula, for this model."""

from __future__ import annotations

import math

from fusedlm._rules import FFN_ACTIVATIONS
from fusedlm.models import Decoder, DecoderClassifier, Encoder, ModelConfig

Words = dict[str, tuple[str, str, str]]


def decoder_layers(config: ModelConfig, T: int) -> Words:
    """From the tokens to the last layer."""
    C, D, H, G = config.width, config.head_width, config.heads, config.kv_heads
    learned = config.position == "learned"
    norm_name = _norm_name(config)
    norm = {
        "rms_norm": f"x / √(mean(x²) + {config.norm_eps:g}) · weight",
        "layer_norm": f"(x − mean(x)) / √(var(x) + {config.norm_eps:g}) · weight"
        + (" + bias" if config.bias else ""),
    }[config.norm]
    sections = _beginning(T, config.vocab_size)
    sections["embedding"] = (
        "Embedding",
        f"Each token is looked up in a table: a row of {C} numbers that training has found. "
        + (
            "A second row says where the token stands, and both are added."
            if learned
            else "Where a token stands is not added here: it turns queries and keys later."
        ),
        "x = token row + position row" if learned else "x = token row",
    )
    sections["attention_norm"] = (
        f"{norm_name} before attention",
        """Brings every token's numbers to the same size, so that layers can be stacked. What goes on
        beside, the residual stream, stays as it is.""",
        norm,
    )
    sections["qkv"] = (
        "Queries, keys and values",
        f"""Three products make of each token a query (what it looks for), a key (what it can be found
        by) and a value (what it hands over), {D} numbers each, for {heads(H)}."""
        + (f" {H // G} heads of queries share one of the {G} heads of keys and values."
           if G != H else ""),
        "q = norm(x) Wqᵀ,  k = norm(x) Wkᵀ,  v = norm(x) Wvᵀ"
        + (",  each + bias" if config.qkv_bias else ""),
    )  # fmt: skip
    if config.qk_norm or not learned:
        did = (["normed"] if config.qk_norm else []) + ([] if learned else ["turned"])
        sections["used"] = (
            f"Queries and keys, {' and '.join(did)}",
            ("Each query and key is brought to the same size. " if config.qk_norm else "")
            + (
                ""
                if learned
                else """RoPE turns pairs of numbers by angles that grow with the position, some
                fast, some slowly; the product of a query and a key then knows how far apart they
                are."""
            ),
            ""
            if learned
            else f"angle of pair i at position p = p · {config.rope_base:g}^(−2i/{D})",
        )
    sections.update(attention(D, causal=True, windows=bool(config.windows)))
    sections["ffn"] = _feed_forward(
        config.activation, config.ffn_width, norm=f"{norm_name}, then ", of="norm(x)"
    )
    sections["layers"] = (
        "Layer after layer",
        f"""The same again in each of the {config.layers} layers, each with weights of its own. The
        stream is what all of them add to. The length of its numbers, what attention and feed-forward
        add, and how many tokens a head spreads its look over (2 to the power of the entropy):""",
        "x ← x + attention(norm(x));  x ← x + ffn(norm(x))",
    )
    return sections


def decoder(model: Decoder, T: int) -> Words:
    config = model.config
    sections = decoder_layers(config, T)
    tied = "The rows are those of the embedding: the head is tied to it." if config.tied else ""
    sections["logits"] = (
        "Logits and probabilities",
        f"""A last {_norm_name(config)}, and the product with one row for each word of the vocabulary gives the
        logits; softmax makes probabilities of them. {tied} Row t says what comes after token t.""",
        "logits = norm(x) Eᵀ;  p = exp(logit) / Σ exp(logits)",
    )
    sections["lens"] = lens("Last norm and head")
    sections["loss"] = (
        "Loss",
        """Each token is what the model should have said one place before. The loss is the mean of
        −log of the probabilities that it gave them: 0 for certainty.""",
        f"loss = mean(−log p(next token));  knowing nothing, log {config.vocab_size} ="
        f" {math.log(config.vocab_size):.2f}",
    )
    sections.update(end("the token after the text"))
    return sections


def decoder_classifier(model: DecoderClassifier, T: int) -> Words:
    config = model.config
    sections = decoder_layers(config.decoder, T)
    what = "each token"
    if config.task == "sequence":
        last = config.pooling == "last"
        what = "the last token, which has seen all" if last else "the mean of all tokens"
    norm = f"a last {_norm_name(config.decoder)}"
    sections["logits"] = _classes(len(config.labels), f"{what}, after {norm}")
    sections["lens"] = lens("Last norm and classifier")
    sections["loss"] = _LOSS_OF_A_CLASS
    sections.update(end("the class"))
    return sections


def encoder(model: Encoder, T: int) -> Words:
    config = model.config
    C, D = config.width, config.head_width
    sections = _beginning(
        T, config.vocab_size, "Question and text are" if config.task == "span" else "The text is"
    )
    types = " and one for its type" if config.types else ""
    sections["embedding"] = (
        "Embedding",
        f"""Each token is looked up in a table: a row of {C} numbers that training has found. A row for
        where it stands{types} is added, and a LayerNorm brings the sum to the same size.""",
        "x = norm(token row + position row" + (" + type row)" if config.types else ")"),
    )
    sections["qkv"] = (
        "Queries, keys and values",
        f"""Three products make of each token a query (what it looks for), a key (what it can be found
        by) and a value (what it hands over), {D} numbers each, for {heads(config.heads)}.""",
        "q = x Wqᵀ + b,  k = x Wkᵀ + b,  v = x Wvᵀ + b",
    )
    sections.update(attention(D, causal=False, windows=False))
    title, text, _ = sections["out"]
    sections["out"] = title, text, "x ← norm(x + concat(heads) Woᵀ)"
    title, text, formula = _feed_forward(config.activation, config.ffn_width, norm="", of="x")
    formula = formula.replace("x ← ", "x ← norm(") + ")"
    sections["ffn"] = title, f"{text} A LayerNorm follows.", formula
    sections["layers"] = (
        "Layer after layer",
        f"""The same again in each of the {config.layers} layers, each with weights of its own. A
        LayerNorm follows every addition. The length of the stream, of what attention and feed-forward
        add, and how many tokens a head spreads its look over (2 to the power of the entropy):""",
        "x ← norm(x + attention(x));  x ← norm(x + ffn(x))",
    )
    if config.task is None:
        how = "the first token's" if config.pooling == "cls" else "the mean of all tokens'"
        sections["pooled"] = (
            "The vector of the text",
            f"One vector stands for the text: {how}"
            + (", divided by its length." if config.normalize else "."),
            "",
        )
        return sections
    if config.task == "span":
        sections.update(_answers())
        return sections
    what, also = "each token", ""
    if config.task == "sequence":
        what = "the first token" if config.head == "dense" else "the mean of all tokens"
    if config.ngrams:
        also = f" Each row of 1 to {config.ngrams} tokens adds a weight of its own for each class."
    sections["logits"] = _classes(len(config.labels), what, also)
    sections["lens"] = lens("What classifies")
    sections["loss"] = _LOSS_OF_A_CLASS
    sections.update(end("the class", ngrams=config.ngrams > 0))
    return sections


_LOSS_OF_A_CLASS = (
    "Loss",
    "−log of the probability of the right class: 0 for certainty.",
    "loss = mean(−log p(class))",
)


def _classes(count: int, what: str, also: str = "") -> tuple[str, str, str]:
    return (
        "Logits and probabilities",
        f"""The classifier gives a logit for each of the {count} classes, of {what};
        softmax makes probabilities of them.{also}""",
        f"logits = h Wᵀ + b{' + n-grams' if also else ''};  p = exp(logit) / Σ exp(logits)",
    )


def _answers() -> Words:
    return {
        "logits": (
            "Where the answer is",
            """A linear layer gives each token two logits: to be the first of the answer, and to be the last.
            Softmax over the tokens makes probabilities of them. An answer's score is the sum of both;
            one that begins and ends at the very first token is "no answer".""",
            "start, end = h Wᵀ + b;  p(first = i) = exp(start_i) / Σ exp(start)",
        ),
        "lens": lens("The linear layer"),
        "loss": (
            "Loss",
            "−log of the probabilities of the right first and last token, on average.",
            "loss = (−log p(first) − log p(last)) / 2",
        ),
        **end("the answer (p of its first times p of its last token)"),
    }


def lens(what: str) -> tuple[str, str, str]:
    return (
        "The logit lens",
        f"""What would the model say if it ended here? {what} on the stream after every layer
        (nostalgebraist 2020).""",
        "",
    )


def _beginning(T: int, vocabulary: int, what: str = "The text is") -> Words:
    return {
        "tokens": (
            "Tokens",
            f"""{what} cut into {T} pieces of a vocabulary of {vocabulary:,}. The model sees their
            numbers alone.""",
            "",
        )
    }


def attention(D: int, *, causal: bool, windows: bool) -> Words:
    sees = "A token sees itself and what came before it. " if causal else "Every token sees all. "
    window = "In layers with a window it sees the last few tokens only. " if windows else ""
    return {
        "scores": (
            "Scores",
            f"""How well does the query of a token (row) fit the key of another (column)? Their product,
            divided by √{D} so that it does not grow with the width. {sees}{window}""",
            "score = q · k / √D",
        ),
        "weights": (
            "Attention weights",
            """Softmax makes shares of a row's scores: they are above 0 and sum to 1. (The fused kernel
            never writes these down.)""",
            "weight = exp(score) / Σ exp(scores of the row)",
        ),
        "mixed": (
            "Mixed values",
            """Each token gets the sum of the values of the tokens it sees, by weight.""",
            "mixed = Σ weight · v",
        ),
        "out": (
            "Output and residual",
            """The heads side by side go through one more product, and what comes out is added to what
            was there before.""",
            "x ← x + concat(heads) Woᵀ",
        ),
    }


def _feed_forward(activation: str, width: int, *, norm: str, of: str) -> tuple[str, str, str]:
    kernel, gated = FFN_ACTIVATIONS[activation]
    name = {"gelu": "GELU", "gelu_tanh": "GELU", "relu": "ReLU", "silu": "SiLU"}[kernel]
    if gated:
        how = f"two products up to {width} numbers, one of which, through {name}, gates the other"
        formula = f"x ← x + ({name}({of} Wgateᵀ) ⊙ {of} Wupᵀ) Wdownᵀ"
    else:
        how = f"a product up to {width} numbers, {name} on each"
        formula = f"x ← x + {name}({of} Wupᵀ) Wdownᵀ"
    text = f"Each token by itself: {norm}{how}, and a product back down, added to what was there."
    return "Feed-forward", text, formula


def end(target: str, ngrams: bool = False, moved: str = "this text") -> Words:
    start = " and no n-grams (what one says is its tokens' alike)" if ngrams else ""
    return {
        "gradients": (
            "Gradients",
            """How the loss changes when a weight grows a little: from the loss backwards through
            everything above, for every weight. Their length, by parts of the model:""",
            "g = ∂ loss / ∂ weight",
        ),
        "adam": (
            "AdamW",
            """Each weight moves against its gradient: by a running mean m of gradients over the root of
            a running mean v of their squares, so that all move at about the same pace. Both begin at 0,
            which the hats correct. Gradients are first made shorter together if they are longer than
            the limit.""",
            "m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²\n"
            "m̂ = m / (1 − β₁ᵗ);  v̂ = v / (1 − β₂ᵗ)\n"
            "w ← w − lr (m̂ / (√v̂ + ε) + decay · w)",
        ),
        "attribution": (
            "Which tokens did it",
            f"""Integrated gradients (Sundararajan et al. 2017): how much each token moved log p of
            {target}, on the way from an average token in every place{start} to {moved}. The numbers sum
            up to the whole change.""",
            "score of a token = (e − e₀) · mean over the way of ∂ log p / ∂ e",
        ),
    }


def _norm_name(config: ModelConfig) -> str:
    return "RMSNorm" if config.norm == "rms_norm" else "LayerNorm"


def heads(H: int) -> str:
    return "one head" if H == 1 else f"each of {H} heads"
