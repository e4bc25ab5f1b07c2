"""The learning rate: linear warm-up, then a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

from __future__ import annotations

import math

from .config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of step 1, 2, ... config.steps; from there on it stays at its lowest."""
    if step <= config.warmup:
        return config.lr * step / config.warmup
    done = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    lowest = config.lr * config.min_lr_ratio
    return lowest + (config.lr - lowest) * 0.5 * (1.0 + math.cos(math.pi * done))
