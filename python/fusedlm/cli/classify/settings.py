"""What a classifier is made of and how it is trained: presets that suit a purpose, and changes to them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusedlm.train import TrainConfig


@dataclass(frozen=True)
class Settings:
    """`base` is a model to start from (None: random weights of `backbone`).

    `probe` trains the last layer alone; `freeze` N leaves the embeddings and N blocks as they are.
    `warmup` is a share of all steps. Training ends after `epochs`, or when `patience` of them brought
    nothing better (None: never before).
    """

    preset: str = "scratch"
    base: str | None = None
    backbone: str = "encoder"
    tokenizer: str = "words"
    vocab_size: int = 25_000
    layers: int = 1
    width: int = 64
    heads: int = 2
    ffn_width: int = 128
    dropout: float = 0.5
    ngrams: int = 2
    ngram_tokens: int | None = None
    ngram_scale: float = 32.0
    context: int = 512
    cut: str = "middle"
    keep_tags: bool = False
    probe: bool = False
    freeze: int | None = None
    epochs: int = 4
    batch: int = 64
    lr: float = 3e-4
    min_lr_ratio: float = 0.05
    warmup: float = 0.05
    weight_decay: float = 0.1
    beta2: float = 0.95
    label_smoothing: float = 0.0
    patience: int | None = None
    seed: int = 0
    precision: str = "float32"

    def beyond_training(self) -> dict[str, Any]:
        """What a TrainConfig does not say, as far as it has a part in such a run; for the model card."""
        said: dict[str, Any] = {"preset": self.preset, "keep_tags": self.keep_tags}
        if self.base is None:
            said |= {"backbone": self.backbone, "tokenizer": self.tokenizer}
        if not self.probe:
            said |= {
                "freeze": self.freeze, "epochs": self.epochs, "label_smoothing": self.label_smoothing,
                "patience": self.patience,
            }  # fmt: skip
        return said

    def train_config(self, batches: int) -> TrainConfig:
        """For epochs of `batches` batches, each with a validation and a checkpoint at its end."""
        from fusedlm.train import TrainConfig

        steps = self.epochs * batches
        return TrainConfig(
            steps=steps, batch=self.batch, lr=self.lr, min_lr_ratio=self.min_lr_ratio,
            warmup=round(self.warmup * steps), weight_decay=self.weight_decay,
            betas=(0.9, self.beta2), precision=self.precision, seed=self.seed, eval_every=batches,
            save_every=batches,
        )  # fmt: skip


# By purpose, what differs from the fields' defaults, which are "scratch". That is small and slow,
# because 20,000 texts teach a transformer little: a larger or faster one has them by heart in two epochs.
PRESETS: dict[str, dict[str, Any]] = {
    "scratch": {},
    # The small set-up of many tutorials, as it is.
    "classic": {
        "layers": 2, "width": 256, "ffn_width": 512, "heads": 8, "dropout": 0.1, "ngrams": 0,
        "context": 256, "cut": "end", "epochs": 10, "lr": 1e-3, "min_lr_ratio": 1.0, "warmup": 0.0,
        "weight_decay": 0.0, "beta2": 0.999, "patience": 3,
    },
    "finetune": {
        "ngram_tokens": 1024, "ngram_scale": 100.0, "context": 256, "epochs": 1, "batch": 32, "lr": 1e-4,
        "warmup": 0.1, "weight_decay": 0.01, "beta2": 0.999,
    },
    "probe": {"ngrams": 0, "context": 64, "probe": True},
}  # fmt: skip


def choose(preset: str | None, base: str | None, changes: dict[str, Any]) -> Settings:
    """The settings of a preset (None: by whether there is a `base`) with `changes` that are not None."""
    name = preset or ("finetune" if base else "scratch")
    if name not in PRESETS:
        raise ValueError(f"--preset is {name!r}, expected one of {', '.join(PRESETS)}")
    settings = Settings(preset=name, base=base, **PRESETS[name])
    given = {name: value for name, value in changes.items() if value is not None}
    settings = replace(settings, **given)
    if settings.probe and base is None:
        raise ValueError(
            "--preset probe needs --from: only a trained model has features to build on"
        )
    return settings


def from_values(values: dict[str, Any]) -> Settings:
    """What `asdict` made of settings, read back from a file."""
    known = {field.name for field in fields(Settings)}
    return Settings(**{name: value for name, value in values.items() if name in known})
