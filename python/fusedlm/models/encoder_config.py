"""The shape of an encoder: one frozen dataclass that checks itself."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import TO_FILL, CheckedFields, Filled

STYLES = ("bert", "roberta", "distilbert")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu")
TASKS = ("sequence", "token", "span")
SPAN_LABELS = ["start", "end"]
POOLINGS = ("mean", "cls")
HEADS = ("dense", "mean")
ONE_OF = "single_label_classification"
PROBLEMS = (ONE_OF, "multi_label_classification", "regression")
CUTS = ("end", "middle")


@dataclass(frozen=True)
class EncoderConfig(CheckedFields):
    """Everything that decides the parameters of an `Encoder` and what it computes.

    `style` says what differs between families: RoBERTa counts positions from pad_id + 1 over tokens
    that are no padding; the heads of classifiers differ. `types` is the number of token types, 0 for
    none. `pooler` is BERT's dense layer on the first token. `task` "sequence" or "token" puts a
    classifier of `labels` classes on top; "span" says of each token whether an answer starts or ends
    there (labels are SPAN_LABELS). `pooling` and `normalize` are how `embed` makes one vector
    of a text. `max_tokens` is how much is read of a longer one (None: the context), and `cut` whether
    its "end" is left out or its "middle" (Sun et al. 2019, arXiv:1905.05583).

    `head` is what classifies sequences: "dense", the family's dense layer on the first token and a
    linear one; or "mean", a linear layer on the mean of all tokens. `ngrams` N > 0 adds what an
    `NGrams` table of `ngram_buckets` rows says of the N-grams and shorter ones. They cost little, and may
    read `ngram_tokens` of a text (None: as much as the encoder). `ngram_scale` is how much faster their
    weights move in training than all others.

    `problem_type` is what transformers calls what the logits of sequences mean. Only the first of
    PROBLEMS, probabilities of one class among several, is trained here: other tasks, and the head
    "mean", which transformers has not, always have that one.
    """

    vocab_size: int
    context: int = 512
    layers: int = 12
    width: int = 768
    heads: int = 12
    ffn_width: Filled[int] = TO_FILL
    norm_eps: float = 1e-12
    activation: str = "gelu"
    types: int = 2
    style: str = "bert"
    pad_id: int = 0
    dropout: float = 0.1
    pooler: bool = False
    task: str | None = None
    labels: list[str] | None = None
    pooling: str = "mean"
    normalize: bool = True
    max_tokens: Filled[int] = TO_FILL
    cut: str = "end"
    head: str = "dense"
    ngrams: int = 0
    ngram_buckets: int = 1 << 18
    ngram_tokens: int | None = None
    ngram_scale: float = 32.0
    problem_type: str = ONE_OF

    @property
    def head_width(self) -> int:
        """Width of a head: width / heads."""
        return self.width // self.heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values: all, as encoders share none."""
        return self.heads

    @property
    def first_position(self) -> int:
        """The row of the position table that the first token gets."""
        return self.pad_id + 1 if self.style == "roberta" else 0

    @property
    def read_tokens(self) -> int:
        """How many tokens of a text are read at all."""
        return max(min(self.max_tokens, self.context), self.ngram_tokens or 0)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "layers", "width", "heads"):
            self._count(name, 1)
        if self.width % self.heads:
            self._bad("heads", f"a divisor of width={self.width}")
        self._fill("ffn_width", 4 * self.width)
        self._fill("max_tokens", self.context)
        self._count("ffn_width", 1)
        self._count("max_tokens", 1)
        self._count("types", 0)
        self._count("pad_id", 0)
        self._count("ngrams", 0)
        self._count("ngram_buckets", 1)
        for name, allowed in (
            ("activation", ACTIVATIONS), ("style", STYLES), ("pooling", POOLINGS),
            ("task", (None, *TASKS)), ("cut", CUTS), ("head", HEADS), ("problem_type", PROBLEMS),
        ):  # fmt: skip
            self._choice(name, allowed)
        for name in ("normalize", "pooler"):
            if not isinstance(getattr(self, name), bool):
                self._bad(name, "true or false")
        self._positive("norm_eps")
        self._share("dropout")
        self._positive("ngram_scale")
        if self.task == "span" and self.labels is None:
            object.__setattr__(self, "labels", list(SPAN_LABELS))
        if self.task is not None:
            self._names("labels", "a list of the classes' names, each once, as there is a task")
        elif self.labels is not None:
            self._bad("labels", "None without a task")
        if self.task == "span" and self.labels != SPAN_LABELS:
            self._bad("labels", f"{SPAN_LABELS} or None for task 'span'")
        if self.task != "sequence" or self.head != "dense":
            object.__setattr__(self, "problem_type", ONE_OF)
        if self.ngrams and self.task != "sequence":
            self._bad("ngrams", "0, but for task 'sequence'")
        if self.ngram_tokens is not None:
            self._count("ngram_tokens", self.max_tokens)
            if not self.ngrams or self.cut != "middle":
                self._bad("ngram_tokens", "None, but with ngrams above 0 and cut 'middle'")
