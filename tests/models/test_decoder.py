import math
from dataclasses import replace

import pytest
import torch

from fusedlm.models import Decoder, ModelConfig
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.small import CONFIGS, small_model
from tests.support.twin import Twin

SHAPE = {"vocab_size": 61, "context": 24, "layers": 2, "width": 32, "heads": 4}
VARIANTS = {
    **CONFIGS,
    "gpt2 without bias, untied": ModelConfig.gpt2(**SHAPE, bias=False, tied=False),
    "gpt2 with exact gelu": ModelConfig.gpt2(**SHAPE, activation="gelu"),
    "gpt2 with relu": ModelConfig.gpt2(**SHAPE, activation="relu", head_width=12),
    "llama with interleaved rope, tied": ModelConfig.llama(
        **SHAPE, rope_interleaved=True, tied=True, rope_base=500.0, ffn_width=40
    ),
    "llama with one kv head, geglu, bias": ModelConfig.llama(
        **SHAPE, kv_heads=1, activation="geglu", bias=True, head_width=16, ffn_width=40
    ),
    "llama with geglu_tanh": ModelConfig.llama(
        **SHAPE, kv_heads=2, activation="geglu_tanh", ffn_width=40
    ),
    "qwen2: bias on query, key and value only": ModelConfig.llama(
        **SHAPE, kv_heads=2, qkv_bias=True, tied=True, ffn_width=40
    ),
    "qwen3: norms on heads wider than width / heads": ModelConfig.llama(
        **SHAPE, kv_heads=2, qk_norm=True, head_width=16, tied=True, ffn_width=40
    ),
    "mistral: a window in every layer": ModelConfig.llama(
        **SHAPE, kv_heads=2, windows=[5, 5], ffn_width=40
    ),
    "norms on heads and a window in one layer": ModelConfig.llama(
        **SHAPE, qk_norm=True, windows=[0, 3], rope_interleaved=True, ffn_width=40
    ),
    "gpt2 with norms on heads, no bias there, and a window": ModelConfig.gpt2(
        **SHAPE, qk_norm=True, qkv_bias=False, windows=[7, 0]
    ),
}


def batch(T: int = 19) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(61, (3, T + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    targets[0, 2:5] = -100
    return tokens[:, :-1], targets


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_loss_and_every_gradient_equal_the_plain_torch_twin(config):
    model = small_model(config).train()
    tokens, targets = batch()
    single = Twin(config, model.state_dict(), torch.float32)
    double = Twin(config, model.state_dict(), torch.float64)

    loss = model(tokens, targets)
    loss.backward()
    truth = double.loss(tokens, targets)
    assert_as_accurate_as_torch(loss, single.loss(tokens, targets), truth, "loss")
    gradients = {name: p.grad for name, p in model.named_parameters()}
    in_single, in_double = single.gradients(tokens, targets), double.gradients(tokens, targets)
    assert gradients.keys() == in_double.keys()
    for name, gradient in gradients.items():
        assert_as_accurate_as_torch(gradient, in_single[name], in_double[name], name)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_the_twin(name):
    model, (tokens, _) = small_model(name), batch()
    single = Twin(model.config, model.state_dict(), torch.float32).logits(tokens)
    double = Twin(model.config, model.state_dict()).logits(tokens)
    assert_as_accurate_as_torch(model(tokens), single, double, "logits")


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_is_as_accurate_as_torch_in_bfloat16(name):
    model, (tokens, targets) = small_model(name, spread=2.0), batch()
    model.compute_dtype = torch.bfloat16
    weights = model.state_dict()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    logits = model(tokens)
    in_bf16 = Twin(model.config, weights, torch.bfloat16).logits(tokens)
    assert_as_accurate_as_torch(
        logits, in_bf16, Twin(model.config, weights).logits(tokens), "logits"
    )
    loss = model(tokens, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    truth = Twin(model.config, weights)
    assert loss.item() == pytest.approx(truth.loss(tokens, targets).item(), rel=0.01)
    for (key, parameter), expected in zip(
        model.named_parameters(), truth.gradients(tokens, targets).values(), strict=True
    ):
        assert parameter.grad.dtype == torch.float32
        scale = expected.abs().max()
        assert (parameter.grad - expected).abs().max() <= 0.05 * scale, key


def test_rope_scaling_changes_the_result_only_through_the_tables():
    plain = ModelConfig.llama(**SHAPE)
    scaled = ModelConfig.llama(**SHAPE, rope_scaling={"rope_type": "linear", "factor": 2.0})
    a, b = small_model(plain), small_model(scaled)
    tokens, _ = batch()
    # Twice the positions at half the rate are the same angles.
    doubled = 2 * torch.arange(12)
    torch.testing.assert_close(b(tokens[:, :12], positions=doubled), a(tokens[:, :12]))
    assert not torch.allclose(b(tokens), a(tokens))


@pytest.mark.parametrize("name", VARIANTS)
def test_recompute_gives_the_same_bits(name):
    config = replace(VARIANTS[name], dropout=0.2)
    tokens = torch.randint(config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(3))
    found = []
    for recompute in (False, True):
        model = small_model(config).train()
        model.recompute = recompute
        torch.manual_seed(5)
        loss = model(tokens, tokens.roll(1))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_initial_loss_is_that_of_a_uniform_guess_and_residual_weights_are_smaller():
    torch.manual_seed(0)
    model = Decoder(ModelConfig.gpt2(vocab_size=500, width=128, heads=4, layers=8, context=64))
    tokens = torch.randint(500, (4, 64))
    assert float(model(tokens, tokens.roll(1))) == pytest.approx(math.log(500), abs=0.1)
    block = model.blocks[0]
    assert float(block.attention.qkv.weight.std()) == pytest.approx(0.02, rel=0.05)
    for weight in (block.attention.out.weight, block.ffn.down_weight):
        assert float(weight.std()) == pytest.approx(0.02 / math.sqrt(16), rel=0.05)
    assert float(block.ffn.up_bias.abs().max()) == 0


def test_number_of_parameters_of_gpt2_small_shape():
    # 124,439,808 is the published GPT-2; layers scale it, so one layer is checked without 0.5 GB.
    one = ModelConfig.gpt2("small", layers=1)
    with torch.device("meta"):
        assert Decoder(one).num_parameters() == 124_439_808 - 11 * 7_087_872
        assert Decoder(one).num_parameters(embeddings=False) == 7_087_872 + 2 * 768


def test_dropout_acts_in_training_only_and_follows_the_seed():
    model = small_model(ModelConfig.gpt2(**SHAPE, dropout=0.3))
    tokens, targets = batch()
    plain = Twin(model.config, model.state_dict(), torch.float32).loss(tokens, targets)
    assert float(model(tokens, targets)) == pytest.approx(float(plain), rel=1e-5)
    model.train()
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(float(model(tokens, targets)))
    assert losses[0] == losses[1] != losses[2]


def test_training_on_one_batch_learns_it():
    torch.manual_seed(0)
    model = Decoder(CONFIGS["llama"])
    tokens, targets = batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(tokens, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.2


def test_bad_arguments_are_named():
    model = small_model("gpt2")
    tokens, targets = batch()
    with pytest.raises(ValueError, match=r"tokens has shape \[19\]"):
        model(tokens[0])
    with pytest.raises(ValueError, match=r"tokens has dtype torch.int32"):
        model(tokens.int())
    with pytest.raises(ValueError, match=r"tokens has 30 positions, the context is 24"):
        model(torch.zeros(1, 30, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"targets has shape \[3, 5\]"):
        model(tokens, targets[:, :5])
    for positions in (torch.arange(5), torch.arange(20), tokens[:2], tokens[None]):
        for name in ("gpt2", "llama"):
            with pytest.raises(ValueError, match=r"positions has shape .* \[19\] or \[3, 19\]"):
                small_model(name)(tokens, positions=positions)
    with pytest.raises(ValueError, match=r"compute_dtype is torch\.float16"):
        Decoder(CONFIGS["gpt2"], torch.float16)
