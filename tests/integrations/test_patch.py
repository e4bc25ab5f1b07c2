"""`fusedlm.patch` on Hugging Face models: the numbers of the unpatched model, judged by its float64 copy."""

from __future__ import annotations

import copy

import pytest
import torch

import fusedlm
from tests.support.accuracy import assert_as_accurate_as_torch

from .families import DECODERS, ENCODERS, T5, batch, make, packed_batch

EVERY = [*DECODERS, *ENCODERS, *T5]


def step(model, inputs) -> dict[str, torch.Tensor]:
    """Loss, gradients of every parameter and, from the model in eval mode, logits of real tokens."""
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    results = {"loss": loss.detach().float()}  # in whatever dtype: BERT's has the logits'
    results.update((n, p.grad.clone()) for n, p in model.named_parameters() if p.grad is not None)
    with torch.no_grad():
        model.eval()
        given = inputs if "decoder_start_token_id" in vars(model.config) else dict(inputs)
        logits = model(**given).logits
        model.train()
    real = inputs.get("attention_mask")
    results["logits"] = logits if real is None else logits[real.bool()]
    return results


def reference(model) -> torch.nn.Module:
    """In float64. Eager attention would have NaN there where a token sees nothing."""
    model = copy.deepcopy(model).double()
    if model._supports_sdpa and "gemma2" not in model.config.model_type:
        model.set_attn_implementation("sdpa")
    return model


def compare(model, inputs, dtype=torch.float32, eps=1e-5) -> None:
    truth = step(reference(model), inputs)
    model = model.to(dtype)
    theirs = step(model, inputs)
    ours = step(fusedlm.patch(copy.deepcopy(model)), inputs)
    assert ours.keys() == theirs.keys()
    for name in truth:
        if truth[name].abs().max() < 1e-9:  # softmax does not feel the bias of keys: this is noise
            assert ours[name].abs().max() < 1e-6, name
            continue
        assert_as_accurate_as_torch(ours[name], theirs[name], truth[name], name, eps)


@pytest.mark.parametrize("padded", (False, True), ids=("dense", "padded"))
@pytest.mark.parametrize("family", EVERY)
def test_loss_logits_and_gradients_are_the_models_own(family, padded):
    compare(make(family), batch(padded, left=family != "gemma2"))


@pytest.mark.parametrize("family", ("gpt2", "llama", "qwen3", "gemma", "bert"))
def test_a_bfloat16_model_is_as_accurate(family):
    compare(make(family), batch(padded=True), torch.bfloat16, eps=1e-2)


@pytest.mark.parametrize("family", ("llama", "mistral", "qwen2-window", "gemma2"))
def test_packed_sequences_do_not_see_each_other(family):
    compare(make(family), packed_batch())


@pytest.mark.parametrize("family", DECODERS)
def test_generation_with_the_cache_takes_the_same_tokens(family):
    model = make(family).eval()
    tokens = batch()["input_ids"]
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(tokens, **options)
    assert torch.equal(fusedlm.patch(copy.deepcopy(model)).generate(tokens, **options), expected)


@pytest.mark.parametrize("family", EVERY)
def test_unpatch_gives_the_model_back(family):
    model, inputs = make(family).eval(), batch(padded=True)
    state = {n: v.clone() for n, v in model.state_dict().items()}
    before = model(**inputs).logits
    attributes = {n: set(m.__dict__) for n, m in model.named_modules()}
    strides = {n: p.stride() for n, p in model.named_parameters()}
    assert fusedlm.patch(model) is model
    fusedlm.patch(model)  # a second time changes nothing
    assert fusedlm.unpatch(model) is model
    assert torch.equal(model(**inputs).logits, before)
    assert {n: set(m.__dict__) for n, m in model.named_modules()} == attributes
    assert {n: p.stride() for n, p in model.named_parameters()} == strides
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())


def test_what_patch_does_not_know_is_named():
    with pytest.raises(TypeError, match="model is a list"):
        fusedlm.patch([])
    with pytest.raises(TypeError, match="optimizer is a SGD"):
        fusedlm.patch(torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    zero = [torch.zeros(1, requires_grad=True)]
    with pytest.raises(ValueError, match="amsgrad"):
        fusedlm.patch(torch.optim.AdamW(zero, amsgrad=True))
    model = torch.nn.Linear(1, 1)
    scheduled = torch.optim.AdamW(model.parameters())
    torch.optim.lr_scheduler.ConstantLR(scheduled)
    with pytest.raises(ValueError, match="scheduler"):
        fusedlm.patch(scheduled)


def test_a_patched_adamw_steps_as_torchs_does():
    models = [make("llama") for _ in range(2)]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.1) for m in models]
    assert fusedlm.patch(optimizers[1]) is optimizers[1]
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(**batch()).loss.backward()
            optimizer.step()
    for expected, got in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert type(fusedlm.unpatch(optimizers[1])) is torch.optim.AdamW


def test_patched_gpt2_trains_with_the_fused_adamw_as_accurately_as_torch():
    """Its weights are laid out by columns then, which the optimizer must not mind."""
    exact, plain, patched = make("gpt2").double(), make("gpt2"), fusedlm.patch(make("gpt2"))
    optimizers = [
        torch.optim.AdamW(exact.parameters(), lr=1e-2),
        torch.optim.AdamW(plain.parameters(), lr=1e-2),
        fusedlm.optim.AdamW(patched.parameters(), lr=1e-2, betas=(0.9, 0.999), weight_decay=1e-2),
    ]
    for _ in range(3):
        for model, optimizer in zip((exact, plain, patched), optimizers, strict=True):
            optimizer.zero_grad()
            model(**batch()).loss.backward()
            optimizer.step()
    torchs, ours = dict(plain.named_parameters()), dict(patched.named_parameters())
    for name, expected in exact.named_parameters():
        if name.endswith(
            "c_attn.bias"
        ):  # a third of it, of the keys, moves by rounding errors alone
            continue
        errors = [float((p[name].double() - expected).abs().max()) for p in (torchs, ours)]
        assert errors[1] <= 2 * errors[0] + 2e-5, (name, errors)


def test_training_under_autocast_is_as_accurate_as_torchs():
    model = make("llama")
    truth = step(reference(model), batch())
    with torch.autocast("cpu", torch.bfloat16):
        theirs = step(model, batch())
        ours = step(fusedlm.patch(copy.deepcopy(model)), batch())
    for name in truth:
        got, expected = ours[name].float(), theirs[name].float()
        assert_as_accurate_as_torch(got, expected, truth[name], name, 1e-2)


def test_dropout_in_a_post_norm_block_still_drops():
    model = fusedlm.patch(make("bert"))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    inputs = batch()
    torch.manual_seed(0)
    first = model(**inputs).loss
    assert model(**inputs).loss != first
    torch.manual_seed(0)
    assert model(**inputs).loss == first


def test_an_adapter_put_in_after_patching_is_used():
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = fusedlm.patch(make("llama").eval())
    inputs, before = batch(), model(**batch()).logits
    mlp = model.model.layers[0].mlp
    adapter = Doubled(mlp.up_proj.in_features, mlp.up_proj.out_features, bias=False)
    adapter.weight = mlp.up_proj.weight
    mlp.up_proj = adapter
    doubled = model(**inputs).logits
    assert not torch.allclose(doubled, before)
    torch.testing.assert_close(doubled, fusedlm.unpatch(model)(**inputs).logits)


def test_hooks_on_a_layer_inside_a_fused_one_are_called():
    model = fusedlm.patch(make("llama").eval())
    seen = []
    model.model.layers[0].mlp.gate_proj.register_forward_hook(lambda *_: seen.append(1))
    model(**batch())
    assert seen


def test_a_deep_copy_computes_with_its_own_weights():
    model = fusedlm.patch(make("llama").eval())
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert other(**batch()).logits.abs().max() == 0
    assert model(**batch()).logits.abs().max() > 0


def test_recomputed_activations_give_the_same_gradients():
    model = fusedlm.patch(make("llama"))
    expected = step(model, batch())
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for name, value in step(model, batch()).items():
        assert torch.equal(value, expected[name]), name


def test_a_patched_model_is_saved_and_loaded_as_it_was(tmp_path):
    model = fusedlm.patch(make("gpt2").eval())
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch()).logits, model(**batch()).logits)


@pytest.mark.parametrize("family", ("llama", "bert"))
def test_a_patched_model_compiles_and_trains_the_same(family):
    model = fusedlm.patch(make(family))
    expected = step(model, batch())
    torch._dynamo.reset()
    compiled = torch.compile(model)
    compiled.zero_grad()
    loss = compiled(**batch()).loss
    loss.backward()
    torch.testing.assert_close(loss.detach().float(), expected["loss"])
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_trainer_of_transformers_trains_a_patched_model(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    def trained(model):
        rows = [{k: v[i] for k, v in batch().items()} for i in range(3)] * 4
        arguments = TrainingArguments(
            tmp_path, max_steps=4, per_device_train_batch_size=3, learning_rate=1e-2, seed=1,
            report_to=[], save_strategy="no", logging_steps=1, use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    expected, losses = trained(make("llama")), trained(fusedlm.patch(make("llama")))
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(expected, rel=1e-3)
