"""One line that puts our kernels into a model that is there already: `fusedlm.patch(model)`."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import torch
from torch import nn

from . import layers
from .plain import takes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STATE = "_fusedlm_patch"


@dataclass
class Patch:
    """What `patch` did to a module, for `unpatch`."""

    attributes: dict[str, Any] = field(default_factory=dict)  # what stood in the module's __dict__
    replaced: list[str] = field(default_factory=list)
    attention: str | None = None
    turned: bool = False


# Fused forwards by the names of the methods in whose place they stand.
Forwards: TypeAlias = dict[str, Callable[..., Any]]
# Layers of torch by class; layers of transformers by the name of their class.
_TORCH: dict[type, Forwards] = {
    nn.LayerNorm: {"forward": layers.layer_norm},
    nn.RMSNorm: {"forward": layers.torch_rms_norm},
    nn.Linear: {"forward": layers.linear},
    nn.Embedding: {"forward": layers.embedding},
}


@functools.cache
def _transformers() -> dict[str, Forwards]:
    from . import blocks, heads

    table: dict[str, Forwards] = {
        "Conv1D": {"forward": layers.conv1d},
        "T5LayerNorm": {"forward": layers.rms_norm},
        "T5DenseActDense": {"forward": blocks.t5_ffn},
        "T5DenseGatedActDense": {"forward": blocks.t5_ffn},
        "GPT2MLP": {"forward": blocks.gpt2_mlp},
        "GPT2Block": {"forward": blocks.gpt2_block},
        "GPT2LMHeadModel": {"forward": heads.causal_lm},
        **{name: {"forward": forward} for name, forward in heads.MASKED_LM.items()},
        "FFN": {"ff_chunk": blocks.distilbert_ffn},
        "TransformerBlock": {"forward": blocks.distilbert_block},
    }
    for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2"):
        table[f"{family}RMSNorm"] = {"forward": layers.rms_norm}
        table[f"{family}MLP"] = {"forward": blocks.gated_mlp}
        table[f"{family}Attention"] = {"forward": blocks.llama_attention}
        table[f"{family}ForCausalLM"] = {"forward": heads.causal_lm}
        if family != "Gemma2":  # which has norms behind its branches too
            table[f"{family}DecoderLayer"] = {"forward": blocks.llama_block}
    for family in ("Bert", "Roberta"):
        table[f"{family}SelfOutput"] = {"forward": blocks.bert_output}
        table[f"{family}Layer"] = {"feed_forward_chunk": blocks.bert_feed_forward}
    return table


def _replacements(kind: type) -> Forwards:
    if kind in _TORCH:
        return _TORCH[kind]
    if kind.__module__.startswith("transformers."):
        return _transformers().get(kind.__name__, {})
    return {}


def patch(model: nn.Module | torch.optim.Optimizer) -> Any:
    """Puts fused kernels into a torch or Hugging Face model, or a torch.optim.AdamW, in place.

    Norms, linear and embedding layers of any model; for GPT-2, Llama, Mistral, Qwen2, Qwen3, Gemma,
    BERT, RoBERTa, DistilBERT and T5 also feed-forward layers, attention, rotary positions, residual
    additions, and head and loss in one (with labels while training, `logits` of the output is then
    None). Parameters, their names, hooks on layers, `state_dict` and `save_pretrained` stay as they
    are. A layer that holds something else than it was made with (an adapter, a quantised or sharded
    weight, a hook) keeps its own forward. Returns the model; patching twice changes nothing.
    Raises TypeError for what is neither, ValueError for an AdamW whose options the kernel lacks.
    """
    if isinstance(model, torch.optim.Optimizer):
        from .optimizer import patch_optimizer

        return patch_optimizer(model)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"patch: model is a {type(model).__name__}, expected a torch.nn.Module or a"
            " torch.optim.AdamW"
        )
    for module in model.modules():
        if _STATE not in module.__dict__:
            _patch_module(module)
    return model


def _patch_module(module: nn.Module) -> None:
    done = Patch()
    for name, function in _replacements(type(module)).items():
        if name in module.__dict__:
            done.attributes[name] = module.__dict__[name]
        original = getattr(module, name)
        module.__dict__[name] = types.MethodType(_bound(function, original), module)
        done.replaced.append(name)
    done.turned = type(module).__name__ == "Conv1D" and _turn(module)
    if _takes_attention(module):
        done.attention = module.config._attn_implementation
        module.set_attn_implementation("fusedlm")
    if done.replaced or done.attention is not None:
        module.__dict__[_STATE] = done


def _bound(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a method; it gets the module's own forward first."""
    bare = getattr(original, "__func__", original)

    @functools.wraps(bare)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # Bound anew, so that a copy of the module calls its own.
        return function(types.MethodType(bare, self), self, *args, **kwargs)

    return forward


def _takes_attention(module: nn.Module) -> TypeGuard[PreTrainedModel]:
    """Whole models of transformers whose attention is ours; T5's learns a bias, which it is not."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(module, transformers.PreTrainedModel):
        return False
    from . import attention

    config = module.config
    unfit = config.model_type == "t5" or getattr(config, "is_encoder_decoder", False)
    return not unfit and module._supports_sdpa and config._attn_implementation != attention.NAME


def _turn(module: nn.Module) -> bool:
    """Lays the weight [in, out] of a Conv1D out by columns, so that its transpose, which the kernels
    take, is dense. Shape and values stay."""
    weight: Any = module.weight
    if not takes(weight) or not weight.is_contiguous():
        return False
    weight.data = weight.data.t().contiguous().t()
    return True


def unpatch(model: nn.Module | torch.optim.Optimizer) -> Any:
    """Takes everything back that `patch` did; what was never patched is left alone."""
    if isinstance(model, torch.optim.Optimizer):
        from .optimizer import unpatch_optimizer

        return unpatch_optimizer(model)
    module: Any  # has what `patch` saw it have
    for module in model.modules():
        done: Patch | None = module.__dict__.pop(_STATE, None)
        if done is None:
            continue
        for name in done.replaced:
            del module.__dict__[name]
        module.__dict__.update(done.attributes)
        if done.turned:
            module.weight.data = module.weight.data.contiguous()
        if done.attention is not None:
            module.set_attn_implementation(done.attention)
    return model


@contextmanager
def patched() -> Iterator[None]:
    """Within it every layer that `patch` knows runs fused, of all models, those of transformers that are
    imported by then; and torch's scaled_dot_product_attention is ours.

        with fusedlm.patched():
            loss = model(tokens).loss
            loss.backward()
    """
    from .functions import FusedFunctions

    swapped: list[tuple[type, str, Any]] = []
    for kind in _known_classes():
        for name, function in _replacements(kind).items():
            original = kind.__dict__[name]
            setattr(kind, name, _bound(function, original))
            swapped.append((kind, name, original))
    try:
        with FusedFunctions():
            yield
    finally:
        for kind, name, original in swapped:
            setattr(kind, name, original)


def _known_classes() -> list[type]:
    found: dict[type, None] = dict.fromkeys(_TORCH)
    modules = [m for n, m in sys.modules.items() if n.startswith("transformers.models.")]
    modules += [m for n, m in sys.modules.items() if n == "transformers.pytorch_utils"]
    for module in modules:
        for name, value in list(vars(module).items()):
            if (
                isinstance(value, type)
                and value.__module__ == module.__name__
                and name in _transformers()
            ):
                found[value] = None
    return [kind for kind in found if all(n in kind.__dict__ for n in _replacements(kind))]
