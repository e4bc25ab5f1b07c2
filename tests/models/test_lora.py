"""Adapters: training, merging, files that PEFT reads and writes."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from fusedlm.errors import CorruptFileError
from fusedlm.generate import generate
from fusedlm.models import (
    Decoder,
    DecoderClassifier,
    Encoder,
    EncoderConfig,
    ModelConfig,
    add_lora,
    export_hf,
    load,
    load_lora,
    merge_lora,
    save_lora,
)
from fusedlm.models.lora import merged_state, targets_of
from fusedlm.optim import AdamW

CONFIGS = {
    "llama": ModelConfig.llama(vocab_size=61, context=32, layers=2, width=32, heads=4, kv_heads=2),
    "interleaved": ModelConfig.llama(
        vocab_size=61, context=32, layers=2, width=32, heads=4, kv_heads=2, rope_interleaved=True
    ),
    "gpt2": ModelConfig.gpt2(vocab_size=61, context=32, layers=2, width=32, heads=4),
}


def decoder(name: str) -> Decoder:
    torch.manual_seed(3)
    return Decoder(CONFIGS[name])


def tokens() -> torch.Tensor:
    return torch.randint(61, (2, 17), generator=torch.Generator().manual_seed(5))


def trained(model: Decoder, steps: int = 5) -> Decoder:
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(tokens(), tokens().roll(-1, 1)).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_adapters_add_nothing_at_first(name):
    model = decoder(name)
    expected = model(tokens())
    add_lora(model, targets=targets_of(model))
    torch.testing.assert_close(model(tokens()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_only_adapters_are_trained_and_the_loss_falls(name):
    model = add_lora(decoder(name), rank=4, targets=targets_of(decoder(name)))
    before = {n: p.clone() for n, p in model.named_parameters()}
    first = model(tokens(), tokens().roll(-1, 1)).item()
    trained(model, 60)
    assert model(tokens(), tokens().roll(-1, 1)).item() < 0.9 * first
    for n, parameter in model.named_parameters():
        assert ("adapter." in n) != torch.equal(parameter, before[n]), n


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_of_adapters_are_those_of_the_merged_weights(name):
    """d loss / d B = scale (d loss / d W) A^T, and the same for A, whichever way the products are cut."""
    model = trained(add_lora(decoder(name), rank=3, targets=targets_of(decoder(name))))
    model.zero_grad()
    model(tokens(), tokens().roll(-1, 1)).backward()
    merged = merge_lora(copy.deepcopy(model))
    merged(tokens(), tokens().roll(-1, 1)).backward()
    adapter, whole = (
        model.blocks[1].attention.out.adapter,
        merged.blocks[1].attention.out.weight.grad,
    )
    (key,) = adapter.a
    expected = adapter.scale * whole @ adapter.a[key].T
    torch.testing.assert_close(adapter.b[key].grad, expected, rtol=1e-4, atol=1e-6)
    expected = adapter.scale * adapter.b[key].T @ whole
    torch.testing.assert_close(adapter.a[key].grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_merged_model_computes_the_same_and_is_plain_again(name):
    model = trained(add_lora(decoder(name), targets=targets_of(decoder(name)))).eval()
    expected = model(tokens())
    merge_lora(model)
    torch.testing.assert_close(model(tokens()), expected, rtol=1e-4, atol=1e-5)
    assert model.state_dict().keys() == decoder(name).state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_with_adapters_writes_and_is_written_as_the_merged_one(name, tmp_path):
    model = trained(add_lora(decoder(name), targets=targets_of(decoder(name)))).eval()
    merged = merge_lora(copy.deepcopy(model))
    options = {"max_new_tokens": 8, "temperature": 0.0}
    assert generate(model, [[1, 2, 3]], **options) == generate(merged, [[1, 2, 3]], **options)
    trained(model, 1)  # other adapters, and so another model
    merged = merge_lora(copy.deepcopy(model))
    assert generate(model, [[1, 2, 3]], **options) == generate(merged, [[1, 2, 3]], **options)
    export_hf(model, None, tmp_path / "model")
    written, _ = load(tmp_path / "model")
    torch.testing.assert_close(written(tokens()), merged(tokens()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_adapters_come_back(name, tmp_path):
    model = trained(add_lora(decoder(name), rank=4, alpha=3.0)).eval()
    save_lora(model, tmp_path / "adapter", base="somewhere")
    other = load_lora(decoder(name), tmp_path / "adapter").eval()
    assert torch.equal(other(tokens()), model(tokens()))


@pytest.mark.parametrize("name", CONFIGS)
def test_peft_reads_ours_and_we_read_what_it_writes(name, tmp_path):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = trained(add_lora(decoder(name), rank=4)).eval()
    export_hf(decoder(name), None, tmp_path / "base")
    save_lora(model, tmp_path / "adapter", base=str(tmp_path / "base"))
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(theirs(tokens()).logits, model(tokens()), rtol=1e-4, atol=1e-5)
    theirs.save_pretrained(tmp_path / "again")
    again = load_lora(decoder(name), tmp_path / "again").eval()
    torch.testing.assert_close(again(tokens()), model(tokens()))


def test_frozen_feed_forward_gets_no_gradients_and_passes_them_on():
    model = decoder("llama")
    model.requires_grad_(False)
    model.embedding.weight.requires_grad_(True)
    model(tokens(), tokens().roll(-1, 1)).backward()
    assert model.embedding.weight.grad is not None
    assert all(p.grad is None for p in model.blocks.parameters())


def test_dropout_is_for_training_alone():
    model = add_lora(decoder("llama"), dropout=0.5)
    trained(model)
    torch.manual_seed(0)
    first = model.train()(tokens())
    assert not torch.equal(model(tokens()), first)
    assert torch.equal(model.eval()(tokens()), model(tokens()))


def test_bfloat16_activations_train_adapters_too():
    model = add_lora(decoder("llama"), rank=4)
    model.compute_dtype = torch.bfloat16
    model.grad_dtype = torch.bfloat16
    first = model(tokens(), tokens().roll(-1, 1)).item()
    trained(model, 60)
    assert model(tokens(), tokens().roll(-1, 1)).item() < 0.9 * first


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rank": 0}, "rank is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"targets": ["q_prof"]}, "targets has 'q_prof'.*q_proj"),
        ({"targets": []}, "targets is empty"),
        ({"targets": "q_proj"}, "targets is 'q_proj', expected a list"),
        ({"targets": 5}, "targets is 5, expected a list"),
        ({"dropout": "x"}, "dropout is 'x'"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"alpha": "x"}, "alpha is 'x'"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha": 10**400}, "alpha is 1000"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_frozen(arguments, message):
    model = decoder("llama")
    with pytest.raises(ValueError, match=f"add_lora: {message}"):
        add_lora(model, **arguments)
    assert all(p.requires_grad for p in model.parameters())


def test_names_of_another_family_are_not_taken_for_the_default():
    names = targets_of(decoder("llama"))
    with pytest.raises(ValueError, match="targets has 'q_proj', expected some of attn"):
        add_lora(decoder("gpt2"), targets=names)


def test_a_model_without_names_in_peft_is_refused_by_the_caller_and_the_field():
    model = Decoder(ModelConfig.gpt2(vocab_size=9, layers=1, width=8, heads=2, position="rope"))
    for call in (add_lora, merge_lora, targets_of, lambda m: load_lora(m, "nowhere")):
        name = getattr(call, "__name__", "").replace("<lambda>", "load_lora")
        with pytest.raises(ValueError, match=f"^{name}: norm is 'layer_norm'"):
            call(model)
    encoder = Encoder(EncoderConfig(9, layers=1, width=8, heads=2))
    with pytest.raises(ValueError, match="add_lora: model is a Encoder, expected a Decoder"):
        add_lora(encoder)


@pytest.mark.parametrize(
    ("name", "modules", "expected"),
    [
        ("llama", r".*\.(q|down)_proj", 2 * 2),
        ("llama", r".*self_attn\.q_proj", 2),
        ("llama", "model.layers.1.self_attn.[qk]_proj", 2),
        ("llama", ["layers.0.self_attn.q_proj", "down_proj"], 1 + 2),
        ("gpt2", ["c_proj"], 2 * 2),
        ("gpt2", "All-Linear", 2 * 4),
    ],
)
def test_target_modules_are_found_as_peft_finds_them(name, modules, expected, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    export_hf(decoder(name), None, tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    asked = peft.LoraConfig(r=3, target_modules=modules, init_lora_weights=False)
    theirs = peft.get_peft_model(base, asked).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": modules}))
    ours = load_lora(decoder(name), tmp_path / "adapter").eval()
    names = [n for n, _ in ours.named_parameters() if "adapter.b." in n]
    assert len(names) == expected
    torch.testing.assert_close(ours(tokens()), theirs(tokens()).logits, rtol=1e-4, atol=1e-5)
    save_lora(ours, tmp_path / "again")
    again = load_lora(decoder(name), tmp_path / "again").eval()
    assert torch.equal(again(tokens()), ours(tokens()))


def test_target_modules_that_are_no_pattern_or_name_nothing_name_the_file(tmp_path):
    save_lora(add_lora(decoder("llama")), tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    for modules in ("(", "q_proj", ["c_attn"], []):
        file.write_text(json.dumps({**config, "target_modules": modules}))
        with pytest.raises(CorruptFileError, match=r"adapter_config\.json"):
            load_lora(decoder("llama"), tmp_path)
    file.write_text(json.dumps({**config, "exclude_modules": ["q_proj"]}))
    with pytest.raises(NotImplementedError, match="exclude_modules"):
        load_lora(decoder("llama"), tmp_path)


def test_adapters_go_on_once():
    with pytest.raises(ValueError, match="adapters already"):
        add_lora(add_lora(decoder("llama")))
    with pytest.raises(ValueError, match="no adapters"):
        save_lora(decoder("llama"), "nowhere")


def test_damaged_and_foreign_adapters_name_the_file_and_leave_the_model_alone(tmp_path):
    folder = tmp_path / "adapter"
    save_lora(add_lora(decoder("llama")), folder)
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    model = decoder("llama")
    weights.write_bytes(whole[:100])
    with pytest.raises(CorruptFileError, match=r"adapter_model\.safetensors"):
        load_lora(model, folder)
    weights.write_bytes(whole)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 4}))
    with pytest.raises(CorruptFileError, match="shape"):
        load_lora(model, folder)
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(NotImplementedError, match="use_dora"):
        load_lora(model, folder)
    assert model.state_dict().keys() == decoder("llama").state_dict().keys()
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        load_lora(model, tmp_path)


def test_adapters_on_adapters_are_no_fault_of_the_file(tmp_path):
    model = add_lora(decoder("llama"))
    save_lora(model, tmp_path)
    with pytest.raises(ValueError, match="load_lora: the model has adapters already"):
        load_lora(model, tmp_path)


def test_adapters_under_a_classifier_are_refused_by_the_name_of_its_class():
    model = DecoderClassifier.of(add_lora(decoder("llama")), ["no", "yes"])
    with pytest.raises(ValueError, match="is a DecoderClassifier, expected a Decoder"):
        merged_state(model)
