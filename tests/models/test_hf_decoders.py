"""Decoders of Hugging Face: random weights of every family, loaded, differentiated and written back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusedlm.data import train_bpe
from fusedlm.errors import CorruptFileError
from fusedlm.models import (
    Decoder,
    DecoderClassifier,
    EncoderDecoder,
    EncoderDecoderConfig,
    ModelConfig,
    export_hf,
    load,
    weights,
)
from fusedlm.models.huggingface import FAMILIES
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.hugging import gradients, in_float64, random_model, saved, transformers
from tests.support.hugging_decoders import CASES, LLAMA, LLAMA3
from tests.support.small import small_model


def tokens() -> torch.Tensor:
    return torch.randint(61, (2, 23), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request, tmp_path_factory):
    """(the model of transformers, its folder, the same loaded by us)"""
    architecture, config = request.param
    theirs = random_model(architecture, **config)
    folder = saved(theirs, tmp_path_factory.mktemp("hf"))
    ours, tokenizer = load(folder)
    assert isinstance(ours, Decoder) and tokenizer is None and not ours.training
    return theirs, folder, ours


def test_logits_loss_and_every_gradient_equal_those_of_transformers(case):
    theirs, _, ours = case
    names, exact = FAMILIES[theirs.config.model_type], in_float64(theirs)
    ids = tokens()
    single = theirs(ids, labels=ids)
    double = exact(ids, labels=ids)
    assert_as_accurate_as_torch(ours(ids), single.logits, double.logits, "logits")
    ours.zero_grad()
    loss = ours(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    assert_as_accurate_as_torch(loss, single.loss, double.loss, "loss")
    for part in (loss, single.loss, double.loss):
        part.backward()
    found = {name: p.grad for name, p in ours.named_parameters()}
    in_single, in_double = (gradients(m, names, list(found)) for m in (theirs, exact))
    for name, gradient in found.items():
        assert_as_accurate_as_torch(gradient, in_single[name], in_double[name], name)
    theirs.zero_grad()


def test_an_exported_model_is_the_same_for_transformers(case, tmp_path):
    theirs, folder, ours = case
    export_hf(ours, None, tmp_path / "out")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", attn_implementation="sdpa"
    )
    windowless = (
        "Llama" if theirs.config.model_type == "mistral" and not ours.config.windows else ""
    )
    assert type(again).__name__.startswith(windowless or type(theirs).__name__)
    with torch.no_grad():
        assert torch.equal(again(tokens()).logits, theirs(tokens()).logits)
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load(tmp_path / "out")[0].config == ours.config


def test_shards_older_names_and_16_bits_load_alike(tmp_path):
    theirs = random_model("LlamaForCausalLM", **LLAMA)
    whole = load(saved(theirs, tmp_path / "whole"))[0].state_dict()
    shards = saved(theirs, tmp_path / "shards", max_shard_size="10KB")
    assert len(list(shards.glob("model-*.safetensors"))) > 3
    base = saved(theirs.model, tmp_path / "base")  # without "model." and without the head
    edit(base, model_type="llama", tie_word_embeddings=True)
    halves = saved(theirs.to(torch.bfloat16), tmp_path / "halves")
    for folder, rounded in ((shards, False), (base, False), (halves, True)):
        for name, value in load(folder)[0].state_dict().items():
            expected = whole[name].to(torch.bfloat16).float() if rounded else whole[name]
            assert value.dtype == torch.float32 and torch.equal(value, expected), name


def test_a_config_of_transformers_4_means_the_same(tmp_path):
    theirs = random_model("LlamaForCausalLM", **{**LLAMA, "rope_parameters": LLAMA3})
    folder = saved(theirs, tmp_path / "m")
    config = load(folder)[0].config
    scaling = {"type" if k == "rope_type" else k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    edit(folder, rope_parameters=None, rope_theta=300.0, rope_scaling=scaling)
    assert load(folder)[0].config == config


def test_yarn_without_its_original_length_has_the_context(tmp_path):
    yarn = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 2.0}
    folder = saved(random_model("LlamaForCausalLM", **LLAMA), tmp_path / "m")
    edit(folder, rope_parameters=yarn)
    assert load(folder)[0].config.rope_scaling["original_max_position_embeddings"] == 64
    theirs = transformers.AutoConfig.from_pretrained(folder)
    assert theirs.rope_parameters["original_max_position_embeddings"] == 64


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
def test_a_window_that_is_null_is_none_and_one_that_is_missing_is_the_default(tmp_path, family):
    architecture = {"qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral"}[family]
    folder = saved(random_model(f"{architecture}ForCausalLM", **LLAMA), tmp_path / "m")
    file = folder / "config.json"
    values = json.loads(file.read_text()) | {"use_sliding_window": True, "max_window_layers": 1}
    values.pop("layer_types", None)
    file.write_text(json.dumps({**values, "sliding_window": None}))
    assert load(folder)[0].config.windows is None
    del values["sliding_window"]
    file.write_text(json.dumps(values))
    first = 4096 if family == "mistral" else 0
    assert load(folder)[0].config.windows == [first, 4096]


@pytest.mark.parametrize("fields", [{}, {"qk_norm": True}])
def test_interleaved_rope_is_exported_in_halves(tmp_path, fields):
    ours = small_model(
        ModelConfig.llama(
            vocab_size=61, context=24, layers=2, width=32, heads=4, kv_heads=2, ffn_width=48,
            rope_interleaved=True, **fields,
        )
    )  # fmt: skip
    export_hf(ours, None, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens()).logits, ours(tokens()), rtol=1e-4, atol=1e-4)


def test_rope_scaling_by_its_older_name_is_exported(tmp_path):
    scaling = {"type": "linear", "factor": 2.0}
    config = ModelConfig.llama(vocab_size=61, layers=1, width=16, heads=2, rope_scaling=scaling)
    export_hf(Decoder(config), None, tmp_path / "out")
    assert load(tmp_path / "out")[0].config == config
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert theirs.rope_parameters["rope_type"] == "linear"


def test_a_tokenizer_trained_here_is_the_same_for_transformers(tmp_path):
    text = "Zoë's 12 naïve\tsailors sing 你好 <|endoftext|> again"
    tokenizer = train_bpe(text * 9, 300)
    shape = {"context": 24, "layers": 1, "width": 8, "heads": 2}
    model = Decoder(ModelConfig.gpt2(vocab_size=tokenizer.vocab_size, **shape))
    export_hf(model, tokenizer, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text and theirs.model_max_length == 24
    assert theirs.eos_token_id == tokenizer.eos_id
    again = load(tmp_path / "out")[1]
    assert again.encode(text) == tokenizer.encode(text) and again.end_ids == tokenizer.end_ids
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert settings.eos_token_id == tokenizer.eos_id


def test_a_model_that_transformers_has_not_is_refused_by_the_field(tmp_path):
    shape = {"vocab_size": 9, "layers": 2, "width": 8, "heads": 2}
    for config, field in (
        (ModelConfig.gpt2(**shape, qk_norm=True), "qk_norm"),
        (ModelConfig.gpt2(**shape, activation="swiglu"), "activation"),
        (ModelConfig.gpt2(**shape, position="rope"), "norm"),
        (ModelConfig.llama(**shape, windows=[3, 0]), "windows"),
        (ModelConfig.llama(**shape, windows=[3, 2], qkv_bias=True), "windows"),
        (ModelConfig.llama(**shape, bias=True, qkv_bias=False), "qkv_bias"),
        (ModelConfig.llama(**shape, activation="relu"), "activation"),
    ):
        with pytest.raises(ValueError, match=f"export_hf: {field} is"):
            export_hf(Decoder(config), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_no_decoder_or_encoder_is_refused_by_its_class(tmp_path):
    shape = {"vocab_size": 9, "layers": 1, "width": 8, "heads": 2}
    for model in (
        EncoderDecoder(EncoderDecoderConfig(**shape)),
        DecoderClassifier.of(Decoder(ModelConfig.llama(**shape)), ["a"]),
    ):
        with pytest.raises(ValueError, match=f"export_hf: model is a {type(model).__name__}, "):
            export_hf(model, None, tmp_path / "out")


def test_a_weight_beyond_float16_is_named_and_nothing_is_written(tmp_path):
    model = Decoder(ModelConfig.llama(vocab_size=9, layers=1, width=8, heads=2))
    with torch.no_grad():
        model.blocks[0].ffn.up_weight[2, 3] = -7e4
    words = r"layers\.0\.mlp\.up_proj\.weight has a value of -70000, .* 65504 with dtype"
    with pytest.raises(ValueError, match=words):
        export_hf(model, None, tmp_path / "out", dtype=torch.float16)
    assert not list(tmp_path.iterdir())
    export_hf(model, None, tmp_path / "out", dtype=torch.bfloat16)


def test_export_replaces_a_model_and_nothing_else(tmp_path):
    model = small_model("llama")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(FileExistsError, match="letters is not empty"):
        export_hf(model, None, tmp_path / "letters")
    export_hf(model, None, tmp_path / "m")
    export_hf(small_model("gpt2"), None, tmp_path / "m", dtype=torch.bfloat16)
    assert load(tmp_path / "m")[0].config.position == "learned"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["letters", "m"]


# What does not load says why.


@pytest.fixture
def folder(tmp_path) -> Path:
    return saved(random_model("LlamaForCausalLM", **LLAMA), tmp_path / "m")


def edit(folder: Path, **values) -> None:
    file = folder / "config.json"
    merged = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({k: v for k, v in merged.items() if v is not None}))


def test_missing_tensors_are_named_all_at_once(folder):
    file = folder / "model.safetensors"
    kept = {n: t for n, t in load_file(file).items() if "q_proj" not in n and "head" not in n}
    save_file(kept, file)
    with pytest.raises(CorruptFileError) as caught:
        load(folder)
    message = str(caught.value)
    assert str(file) in message and "are missing" in message
    assert all(n in message for n in ("layers.0.self_attn.q_proj", "layers.1.self_attn", "lm_head"))


def test_a_wrong_shape_is_named_with_both(folder):
    edit(folder, intermediate_size=48)
    with pytest.raises(CorruptFileError, match=r"mlp.*has shape \[40, 32\], expected \[48, 32\]"):
        load(folder)


def test_a_tensor_that_no_parameter_takes_is_named(folder):
    edit(folder, num_hidden_layers=1)
    with pytest.raises(CorruptFileError, match=r"layers\.1\..*does not belong"):
        load(folder)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "length"])
def test_damaged_weights_are_named(folder, damage):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut": content[:-100], "noise": b"\x13" * 300, "empty": b"",
            "length": b"\xff" * 7 + b"\x7f" + content[8:],
        }[damage]
    )  # fmt: skip
    with pytest.raises(CorruptFileError, match=r"model\.safetensors: not a valid safetensors"):
        load(folder)


@pytest.mark.parametrize("at", ["safe_open", "open"])
def test_a_file_that_cannot_be_opened_is_not_called_damaged(folder, monkeypatch, at):
    def refused(file, *args, **options):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(weights, at, refused, raising=False)
    with pytest.raises(PermissionError, match=r"model\.safetensors"):
        load(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "rwkv"}, "'rwkv' is not known; known are gpt2, llama, mistral"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
        ({"rope_parameters": {"type": "yarn", "factor": 2.0, "mscale": 0.7}}, "mscale is 0.7"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'.*expected one of silu"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(folder, values, words):
    edit(folder, **values)
    with pytest.raises(NotImplementedError, match=rf"(config\.json|model\.safetensors): .*{words}"):
        load(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ({"num_key_value_heads": 3}, "kv_heads is 3"),
        ({"num_hidden_layers": 9999}, "too few for 9999 layers"),
        ({"head_dim": 10**8}, "no tensor as wide as a head of 100000000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, expected .* to 10000"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_scaling"),
    ],
)
def test_a_damaged_config_is_named(folder, values, words):
    edit(folder, **values)
    with pytest.raises(CorruptFileError, match=rf"(config\.json|model\.safetensors): .*{words}"):
        load(folder)


def test_an_index_that_leaves_the_folder_is_refused(folder):
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    index = folder / "model.safetensors.index.json"
    for names in ({"a": "../other.safetensors"}, {"a": 3}, ["a"]):
        index.write_text(json.dumps({"weight_map": names}))
        with pytest.raises(CorruptFileError, match="weight_map"):
            load(folder)
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors is missing"):
        load(folder)


def test_pickled_weights_are_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(NotImplementedError, match=r"pytorch_model\.bin.*pickle.*save_pretrained"):
        load(folder)


JUNK = (None, True, "x", -1, 0, 3, 2.5, 2**31 - 1, 2**70, [], ["x"], {}, {"rope_type": 3}, [None])


@pytest.mark.parametrize("name", ["gpt2", "qwen3 with windows", "mistral"])
def test_any_value_of_any_field_is_an_error_that_names_a_file_or_loads(tmp_path, name):
    architecture, config = CASES[name]
    folder = saved(random_model(architecture, **config), tmp_path / "m")
    values = json.loads((folder / "config.json").read_text())
    for field in values:
        for junk in JUNK:
            (folder / "config.json").write_text(json.dumps({**values, field: junk}))
            try:
                load(folder)
            except (CorruptFileError, NotImplementedError) as error:
                assert str(folder) in str(error)
