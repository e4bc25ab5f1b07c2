"""Encoders in Hugging Face's layout, and what sentence-transformers adds: pooling and normalising."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from fusedlm.errors import CorruptFileError

from .encoder_config import ONE_OF, PROBLEMS, EncoderConfig
from .files import read_json, write_json
from .huggingface import Fields
from .names import BERT, DISTILBERT, ROBERTA, ROBERTA_CLASSIFIER, Names

FAMILIES = {
    "bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta", "distilbert": "distilbert",
}  # fmt: skip
_CLASSES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
_HEADS = {
    "ForSequenceClassification": "sequence", "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
}  # fmt: skip
_ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip


def is_encoder(fields: Fields) -> bool:
    family = fields.get("model_type")
    return isinstance(family, str) and family in FAMILIES


def names_of(config: EncoderConfig) -> Names:
    names = _family_names(config)
    if config.task != "span":
        return names
    return replace(names, outer={**names.outer, "classifier.": "qa_outputs."})


def _family_names(config: EncoderConfig) -> Names:
    if config.style == "roberta":
        return ROBERTA_CLASSIFIER if config.task == "sequence" else ROBERTA
    return DISTILBERT if config.style == "distilbert" else BERT


def read_encoder_config(fields: Fields, weights: set[str]) -> EncoderConfig:
    """The `EncoderConfig` of a config.json; whether there is a pooler, only the weights say."""
    style = FAMILIES[fields.need("model_type")]
    fields.must_be("absolute", "position_embedding_type")
    fields.must_be(False, "is_decoder", "add_cross_attention")
    fields.must_be(None, "quantization_config")
    sizes = _distilbert(fields) if style == "distilbert" else _bert(fields)
    named = fields.strings("architectures") or [""]
    task = next((task for end, task in _HEADS.items() if named[0].endswith(end)), None)
    values = {
        **sizes, "style": style, "vocab_size": fields.count("vocab_size"),
        "pad_id": fields.count("pad_token_id", 1 if style == "roberta" else 0), "task": task,
        "labels": _labels(fields) if task in ("sequence", "token") else None,
        "pooler": task is None and any(n.endswith("pooler.dense.weight") for n in weights),
    }  # fmt: skip
    if task == "sequence":
        values["problem_type"] = _problem(fields, values["labels"])
    if style == "roberta":
        values["context"] -= values["pad_id"] + 1
    try:
        return EncoderConfig.from_dict({**values, **_sentence_transformer(fields.file.parent)})
    except (ValueError, TypeError) as error:
        raise CorruptFileError(fields.file, str(error)) from error


def _bert(fields: Fields) -> dict[str, Any]:
    return {
        "context": fields.count("max_position_embeddings", 512),
        "layers": fields.count("num_hidden_layers"), "width": fields.count("hidden_size"),
        "heads": fields.count("num_attention_heads"), "types": fields.count("type_vocab_size", 2),
        "ffn_width": fields.count("intermediate_size"),
        "norm_eps": fields.get("layer_norm_eps", 1e-12),
        "activation": fields.one_of("hidden_act", _ACTIVATIONS, "gelu"),
        "dropout": fields.get("hidden_dropout_prob", 0.1),
    }  # fmt: skip


def _distilbert(fields: Fields) -> dict[str, Any]:
    return {
        "context": fields.count("max_position_embeddings", 512),
        "layers": fields.count("n_layers"), "width": fields.count("dim"),
        "heads": fields.count("n_heads"), "ffn_width": fields.count("hidden_dim"), "types": 0,
        "norm_eps": 1e-12, "activation": fields.one_of("activation", _ACTIVATIONS, "gelu"),
        "dropout": fields.get("dropout", 0.1),
    }  # fmt: skip


def _labels(fields: Fields) -> list[str]:
    names = fields.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    try:
        return [str(names[key]) for key in sorted(names, key=int)]
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        raise CorruptFileError(fields.file, f"id2label is {names!r}, expected numbers") from error


def _problem(fields: Fields, labels: list[str]) -> str:
    problem = fields.one_of("problem_type", {name: name for name in PROBLEMS}, ONE_OF)
    # A single class would always be certain: transformers trains such a model for regression.
    return "regression" if problem == ONE_OF and len(labels) == 1 else problem


def _is_here(path: Any) -> TypeGuard[str]:
    """Whether modules.json names its own folder or one in it, and nothing elsewhere."""
    return isinstance(path, str) and path != ".." and Path(path).name == path


def encoder_folder(folder: Path) -> Path:
    """Where config.json is: sentence-transformers may have it in a folder of its own."""
    modules = read_json(folder / "modules.json", optional=True, kind=list)
    first = modules[0].get("path", "") if modules and isinstance(modules[0], dict) else ""
    inside = folder / first if _is_here(first) else folder
    return inside if (inside / "config.json").is_file() else folder


def _sentence_transformer(inside: Path) -> dict[str, Any]:
    """How a sentence-transformers folder makes one vector of a text; {} for other folders."""
    folder = inside if (inside / "modules.json").is_file() else inside.parent
    file = folder / "modules.json"
    if not file.is_file() or encoder_folder(folder) != inside:
        return {}
    _refuse_prompts(folder / "config_sentence_transformers.json")
    values: dict[str, Any] = {"normalize": False}
    for module in read_json(file, kind=list)[1:]:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1] if isinstance(module, dict) else ""
        if kind == "Pooling":
            path = module.get("path", "")
            if not _is_here(path):
                raise CorruptFileError(file, f"path is {path!r}, expected a folder beside it")
            values["pooling"] = _pooling(folder / path / "config.json")
        elif kind == "Normalize":
            values["normalize"] = True
        else:
            raise NotImplementedError(
                f"{file}: module {kind!r} is not known; known are Pooling and Normalize"
            )
    file = inside / "sentence_bert_config.json"
    settings = Fields(file, read_json(file, optional=True))
    settings.must_be(False, "do_lower_case")  # of texts; the tokenizer's own is in tokenizer.json
    longest = settings.get("max_seq_length")
    return {**values, "max_tokens": longest} if longest else values


def _refuse_prompts(file: Path) -> None:
    """Of a text that sentence-transformers begins with a prompt, `embed` makes another vector."""
    Fields(file, read_json(file, optional=True)).must_be(None, "default_prompt_name")


def _pooling(file: Path) -> str:
    settings = read_json(file)
    modes = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    chosen = [name for name, on in settings.items() if name.startswith("pooling_mode_") and on]
    chosen = [settings["pooling_mode"]] if "pooling_mode" in settings else chosen
    modes |= {"mean": "mean", "cls": "cls"}
    if len(chosen) != 1 or chosen[0] not in modes:
        raise NotImplementedError(
            f"{file}: pools by {chosen}, expected one of {', '.join(sorted(modes))}"
        )
    return modes[chosen[0]]


def write_encoder_config(config: EncoderConfig) -> dict[str, Any]:
    """The config.json of Hugging Face that computes what `config` says."""
    head = next((end for end, task in _HEADS.items() if task == config.task), "Model")
    act = {"gelu_tanh": "gelu_new"}.get(config.activation, config.activation)
    values = {
        "architectures": [_CLASSES[config.style] + head], "model_type": config.style,
        "vocab_size": config.vocab_size, "pad_token_id": config.pad_id,
        "max_position_embeddings": config.context + config.first_position,
    }  # fmt: skip
    _refuse(config, "a model of transformers", ngrams=0)
    if config.task == "sequence":
        _refuse(config, "a classifier of transformers", head="dense")
    if config.labels is not None and config.task != "span":
        values["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
        values["label2id"] = {label: i for i, label in enumerate(config.labels)}
    if config.problem_type != ONE_OF:
        values["problem_type"] = config.problem_type
    if config.style == "distilbert":
        _refuse(config, "DistilBERT", types=0, norm_eps=1e-12, pooler=False)
        return {
            **values, "n_layers": config.layers, "dim": config.width, "n_heads": config.heads,
            "hidden_dim": config.ffn_width, "activation": act, "dropout": config.dropout,
            "attention_dropout": config.dropout, "seq_classif_dropout": config.dropout,
        }  # fmt: skip
    if not config.types:
        raise ValueError(f"export_hf: types is 0, and {config.style} has at least 1")
    return {
        **values, "num_hidden_layers": config.layers, "hidden_size": config.width,
        "num_attention_heads": config.heads, "intermediate_size": config.ffn_width,
        "type_vocab_size": config.types, "layer_norm_eps": config.norm_eps, "hidden_act": act,
        "hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout,
    }  # fmt: skip


def _refuse(config: EncoderConfig, who: str, **wanted: Any) -> None:
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise ValueError(f"export_hf: {name} is {getattr(config, name)!r}; {who} has {value!r}")


def write_sentence_transformer(folder: Path, config: EncoderConfig) -> None:
    """The files by which sentence-transformers makes the vectors that `embed` makes."""
    kind = "sentence_transformers.models."
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules += [("2_Normalize", "Normalize")] if config.normalize else []
    described = [
        {"idx": i, "name": str(i), "path": path, "type": kind + name}
        for i, (path, name) in enumerate(modules)
    ]
    write_json(folder / "modules.json", described)
    for path, _ in modules[1:]:
        (folder / path).mkdir()
    pooling = {
        "word_embedding_dimension": config.width,
        "pooling_mode_cls_token": config.pooling == "cls",
        "pooling_mode_mean_tokens": config.pooling == "mean",
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
    }  # fmt: skip
    write_json(folder / "1_Pooling" / "config.json", pooling)
    longest = {"max_seq_length": config.max_tokens, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", longest)
