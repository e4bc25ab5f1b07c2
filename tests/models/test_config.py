import dataclasses
import json
from typing import get_type_hints

import pytest

from fusedlm.models import ModelConfig
from fusedlm.models.fields import Filled


def test_defaults_are_filled_in():
    config = ModelConfig(vocab_size=100)
    assert (config.kv_heads, config.head_width, config.ffn_width) == (6, 64, 4 * 384)


def test_gated_width_is_8_thirds_rounded_up_to_64():
    assert ModelConfig.llama(vocab_size=100, width=384).ffn_width == 1024
    assert ModelConfig.llama(vocab_size=100, width=288, heads=6).ffn_width == 768


def test_published_sizes():
    small = ModelConfig.gpt2("small")
    assert (small.vocab_size, small.context, small.layers, small.width) == (50257, 1024, 12, 768)
    assert small.norm == "layer_norm" and small.activation == "gelu_tanh" and small.tied
    smol = ModelConfig.llama("smollm2-135m", context=512)
    assert (smol.kv_heads, smol.head_width, smol.ffn_width, smol.context) == (3, 64, 1536, 512)
    assert smol.norm == "rms_norm" and smol.position == "rope" and not smol.bias and smol.tied


def test_round_trip_through_json():
    config = ModelConfig.llama(
        vocab_size=99, rope_scaling={"rope_type": "linear", "factor": 2.0}, dropout=0.1
    )
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_rope_scaling_spelt_as_transformers_once_did_is_the_same_config():
    given = {"type": "linear", "factor": 2.0}
    config = ModelConfig.llama(vocab_size=99, rope_scaling=given)
    assert config.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    assert config == ModelConfig.llama(vocab_size=99, rope_scaling=config.rope_scaling)
    assert ModelConfig.from_dict({**config.to_dict(), "rope_scaling": given}) == config
    assert given == {"type": "linear", "factor": 2.0}


def test_bias_of_query_key_and_value_follows_bias_unless_given():
    assert ModelConfig(vocab_size=9).qkv_bias is True
    assert ModelConfig.llama(vocab_size=9).qkv_bias is False
    assert ModelConfig.llama(vocab_size=9, qkv_bias=True).qkv_bias is True
    before = {"vocab_size": 9, "bias": False}  # as older folders have it
    assert ModelConfig.from_dict(before).qkv_bias is False


def test_no_window_at_all_is_one_setting():
    assert ModelConfig(vocab_size=9, layers=2, windows=[0, 0]).windows is None
    assert ModelConfig(vocab_size=9, layers=2, windows=(0, 4)).windows == [0, 4]


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig(vocab_size=10).width = 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0), ("vocab_size", "many"), ("vocab_size", True), ("context", -1),
        ("layers", 1.5), ("width", 0), ("heads", 5), ("kv_heads", 4), ("head_width", 0),
        ("ffn_width", -3), ("norm", "batch_norm"), ("norm_eps", 0.0), ("norm_eps", float("nan")),
        ("activation", "tanh"), ("position", "sine"), ("rope_base", -1.0), ("dropout", 1.0),
        ("dropout", "no"), ("bias", 1), ("tied", None), ("ignore_index", 0.5),
        ("qkv_bias", 1), ("qk_norm", "yes"), ("windows", 4), ("windows", [4]),
        ("windows", [4, 0, 4, 0, 4, -1]), ("windows", [4, 0, 4, 0, 4, 1.0]),
    ],
)  # fmt: skip
def test_error_names_the_field_and_the_value(field, value):
    with pytest.raises(ValueError, match=rf"ModelConfig: {field} is .*, expected"):
        ModelConfig(**{"vocab_size": 100, field: value})


YARN = {"factor": 2.0, "original_max_position_embeddings": 8}


def test_options_of_yarn_that_are_null_are_its_usual_ones():
    config = ModelConfig.llama(
        vocab_size=10, rope_scaling={"type": "yarn", **YARN, "beta_fast": None, "truncate": True}
    )
    assert config.rope_scaling == {"rope_type": "yarn", **YARN}
    with pytest.raises(ValueError, match=r"rope_base is 1\.0, expected a number above 1"):
        ModelConfig.llama(vocab_size=10, rope_base=1.0, rope_scaling={"type": "yarn", **YARN})


@pytest.mark.parametrize(
    ("scaling", "word"),
    [
        ({"rope_type": "longrope"}, "llama3"), ({"rope_type": "yarn", "factor": 2.0}, "original_max"),
        ({"rope_type": "yarn", **YARN, "beta_fast": -1.0}, "beta_fast"),
        ({"rope_type": "yarn", **YARN, "mscale": 1.0}, "without mscale, which"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"), ("twice", "dict"),
        ({"rope_type": []}, "llama3"), ({"rope_type": "linear", "factor": 10**400}, "factor"),
        ({"rope_type": "linear", "factor": float("inf")}, "factor"),
    ],
)  # fmt: skip
def test_bad_rope_scaling_says_what_is_expected(scaling, word):
    with pytest.raises(ValueError, match=f"rope_scaling is .*{word}"):
        ModelConfig.llama(vocab_size=10, rope_scaling=scaling)


def test_rope_scaling_without_rope_and_odd_heads_with_rope_are_refused():
    with pytest.raises(ValueError, match="rope_scaling"):
        ModelConfig(vocab_size=10, rope_scaling={"rope_type": "linear", "factor": 2.0})
    with pytest.raises(ValueError, match="head_width"):
        ModelConfig(vocab_size=10, head_width=7, position="rope")


def test_unknown_and_missing_fields_are_named():
    with pytest.raises(ValueError, match="unknown field 'depth'"):
        ModelConfig.from_dict({"vocab_size": 10, "depth": 3})
    with pytest.raises(ValueError, match="vocab_size is missing"):
        ModelConfig.from_dict({"width": 10})
    with pytest.raises(ValueError, match="size is 'huge'"):
        ModelConfig.gpt2("huge")
    with pytest.raises(ValueError, match="give vocab_size or size"):
        ModelConfig.llama(width=64)


def test_types_of_fields_that_are_filled_in_can_be_resolved():
    assert get_type_hints(ModelConfig)["kv_heads"] == Filled[int]
