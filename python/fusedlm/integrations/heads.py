"""Fused forwards of transformers' language models: head and loss in one, without the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import (
    CausalLMOutputWithCrossAttentions,
    CausalLMOutputWithPast,
    MaskedLMOutput,
)
from transformers.utils.generic import ModelOutput

from fusedlm import ops

from .plain import Forward, is_plain


def causal_lm(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    """With labels while training: the loss without logits, which are None. Otherwise as ever."""
    labels: Any = kwargs.get("labels")
    fused = (
        labels is not None
        and self.training
        and not args[1:]
        and not _asks(kwargs.get("logits_to_keep", 0))
        and is_plain(nn.Linear, self.lm_head)
    )
    if not fused:
        return original(*args, **kwargs)
    kwargs = {k: v for k, v in kwargs.items() if k not in ("labels", "logits_to_keep")}
    as_dict = kwargs.pop("return_dict", None)
    loss_options = {
        name: kwargs.pop(name) for name in ("num_items_in_batch", "shift_labels") if name in kwargs
    }
    outputs = getattr(self, self.base_model_prefix)(*args, return_dict=True, **kwargs)
    loss = head_loss(
        outputs.last_hidden_state, self.lm_head, labels,
        softcap=getattr(self.config, "final_logit_softcapping", None), **loss_options,
    )  # fmt: skip
    kind: type[CausalLMOutputWithPast | CausalLMOutputWithCrossAttentions]
    kind = CausalLMOutputWithPast
    fields: dict[str, Any] = {"loss": loss, "logits": None}
    if "cross_attentions" in outputs.__dataclass_fields__:
        kind = CausalLMOutputWithCrossAttentions
        fields["cross_attentions"] = outputs.cross_attentions
    cache = "cache" if "cache" in kind.__dataclass_fields__ else "past_key_values"
    fields[cache] = getattr(outputs, cache)
    result = kind(hidden_states=outputs.hidden_states, attentions=outputs.attentions, **fields)
    return _given(self, result, as_dict)


def head_loss(
    hidden: Tensor, head: nn.Linear, labels: Tensor, *, softcap: float | None = None,
    num_items_in_batch: Tensor | int | None = None, shift_labels: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """transformers' ForCausalLMLoss of head(hidden): labels [B, T] are the inputs, not shifted."""
    if shift_labels is None:
        shift_labels = nn.functional.pad(labels, (0, 1), value=-100)[..., 1:]
    loss = ops.linear_cross_entropy(
        hidden, head.weight, shift_labels.to(hidden.device), bias=head.bias, softcap=softcap or 0.0,
        reduction="mean" if num_items_in_batch is None else "sum",
    )  # fmt: skip
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def masked_lm(head_of: Callable[[Any], tuple[Forward, nn.Linear]]) -> Callable[..., Any]:
    """With labels while training: only the tokens that are asked for go through the head.

    head_of(model): what comes before the projection to the vocabulary, and that.
    """

    def forward(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        labels = kwargs.get("labels")
        transform, decoder = head_of(self)
        if labels is None or not self.training or not is_plain(nn.Linear, decoder):
            return original(*args, **kwargs)
        kwargs = {k: v for k, v in kwargs.items() if k != "labels"}
        as_dict = kwargs.pop("return_dict", None)
        outputs = getattr(self, self.base_model_prefix)(*args, return_dict=True, **kwargs)
        asked = labels != -100
        hidden = transform(outputs.last_hidden_state[asked])
        loss = ops.linear_cross_entropy(hidden, decoder.weight, labels[asked], bias=decoder.bias)
        result = MaskedLMOutput(
            loss=loss, logits=None, hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )  # fmt: skip
        return _given(self, result, as_dict)

    return forward


def _bert(model: Any) -> tuple[Forward, nn.Linear]:
    return model.cls.predictions.transform, model.cls.predictions.decoder


def _roberta(model: Any) -> tuple[Forward, nn.Linear]:
    head = model.lm_head
    return lambda x: head.layer_norm(nn.functional.gelu(head.dense(x))), head.decoder


def _distilbert(model: Any) -> tuple[Forward, nn.Linear]:
    def transform(x: Tensor) -> Tensor:
        out: Tensor = model.vocab_layer_norm(model.activation(model.vocab_transform(x)))
        return out

    return transform, model.vocab_projector


MASKED_LM = {
    "BertForMaskedLM": masked_lm(_bert),
    "RobertaForMaskedLM": masked_lm(_roberta),
    "DistilBertForMaskedLM": masked_lm(_distilbert),
}


def _given(self: Any, output: ModelOutput, as_dict: bool | None) -> Any:
    """An output as the caller, or else the config, wants it."""
    wants_dict = getattr(self.config, "return_dict", True) if as_dict is None else as_dict
    return output if wants_dict else output.to_tuple()


def _asks(logits_to_keep: int | Tensor) -> bool:
    return isinstance(logits_to_keep, Tensor) or logits_to_keep != 0
