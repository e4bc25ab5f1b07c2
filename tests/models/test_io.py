import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusedlm.data import train_bpe
from fusedlm.errors import CorruptFileError
from fusedlm.models import ModelConfig, atomic_folder, export_hf, folder, load, save
from tests.support.small import CONFIGS, small_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "model", small_model("llama"), None, training={"steps": 3})
    return tmp_path / "model"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_loaded_model_computes_the_same(tmp_path, name):
    model = small_model(name).train()
    save(tmp_path / "a" / "b", model, None)
    state = torch.get_rng_state()
    again, tokenizer = load(tmp_path / "a" / "b")
    assert torch.equal(torch.get_rng_state(), state)
    assert tokenizer is None and not again.training and again.config == model.config
    tokens = torch.arange(20)[None]
    assert torch.equal(again(tokens), model.eval()(tokens))


def test_tied_weights_are_stored_once(tmp_path):
    model = small_model("gpt2")
    save(tmp_path / "m", model, None)
    size = (tmp_path / "m" / "model.safetensors").stat().st_size
    assert size < 4 * model.num_parameters() + 10_000


def test_saving_again_replaces_everything_and_leaves_nothing_behind(saved):
    save(saved, small_model("gpt2"), None)
    assert load(saved)[0].config == CONFIGS["gpt2"]
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_failed_save_leaves_the_old_model(saved, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(folder, "_exchange", lambda a, b: False)

    class Full:
        vocab_size = 3

        def save(self, path):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save(saved, small_model("gpt2"), Full())
    assert load(saved)[0].config == CONFIGS["llama"]
    assert [p.name for p in saved.parent.iterdir()] == ["model"]
    save(saved, small_model("gpt2"), None)
    assert load(saved)[0].config == CONFIGS["gpt2"]
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_a_crash_between_the_two_renames_loses_nothing(saved):
    os.rename(saved, saved.with_name(".model.previous"))  # what such a crash leaves
    assert load(saved)[0].config == CONFIGS["llama"]


def test_a_folder_that_is_not_a_model_is_not_overwritten(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(FileExistsError, match="letters is not empty"):
        save(tmp_path / "letters", small_model("gpt2"), None)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "x"
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="file is a file"):
        save(tmp_path / "file", small_model("gpt2"), None)


def test_atomic_folder_is_readable_by_others(tmp_path):
    with atomic_folder(tmp_path / "new") as new:
        (new / "config.json").write_text("{}")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing"):
        load(saved)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_a_damaged_file_is_named(saved, name, damage):
    content = (saved / name).read_bytes()
    broken = {"empty": b"", "cut": content[: len(content) // 2], "noise": os.urandom(200)}
    (saved / name).write_bytes(broken[damage])
    with pytest.raises(CorruptFileError, match=name):
        load(saved)


def change_config(saved: Path, **changes) -> None:
    values = json.loads((saved / "config.json").read_text())
    values.update(changes)
    (saved / "config.json").write_text(json.dumps(values))


def test_all_missing_tensors_are_named_at_once(saved):
    tensors = load_file(saved / "model.safetensors")
    dropped = sorted(name for name in tensors if name.startswith("blocks.1."))
    assert len(dropped) > 5
    change_config(saved, layers=5)  # of which the file has two
    for name in dropped:
        del tensors[name]
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(CorruptFileError, match="are missing") as caught:
        load(saved)
    ends = [name.removeprefix("blocks.1.") for name in dropped]
    named = re.findall(r"'([^']+)'", caught.value.reason)
    assert sorted(named) == sorted(f"blocks.{layer}.{e}" for layer in range(1, 5) for e in ends)


def test_a_config_that_does_not_fit_is_explained(saved):
    change_config(saved, width=64)
    with pytest.raises(CorruptFileError, match=r"safetensors: tensor .* has shape .*, expected"):
        load(saved)
    change_config(saved, width=32, layers=3)
    with pytest.raises(CorruptFileError, match=r"blocks\.2\..* are missing"):
        load(saved)
    change_config(saved, layers=1)
    with pytest.raises(CorruptFileError, match=r"blocks\.1\..* does not belong"):
        load(saved)
    change_config(saved, layers=2, width="wide")
    with pytest.raises(CorruptFileError, match=r"config\.json: ModelConfig: width"):
        load(saved)


def test_a_newer_format_says_so(saved):
    change_config(saved, format_version=2)
    with pytest.raises(ValueError, match="a newer fusedlm wrote it"):
        load(saved)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = small_model(ModelConfig.gpt2(vocab_size=9, layers=1, width=8, heads=1))
    model.blocks[0].ffn.up_weight.data[0, 0] = float("nan")
    save(tmp_path / "m", model, None)
    with pytest.raises(CorruptFileError, match=r"blocks\.0\.ffn\.up_weight.*not finite"):
        load(tmp_path / "m")


def test_a_tokenizer_larger_than_the_model_is_not_written(saved):
    tokenizer = train_bpe("so many words, and so few rows", 300)
    model = small_model(ModelConfig.gpt2(vocab_size=9, layers=1, width=8, heads=1))
    words = rf"tokenizer has {tokenizer.vocab_size} tokens, .* vocab_size of 9"
    with pytest.raises(ValueError, match=f"save: {words}"):
        save(saved, model, tokenizer)
    with pytest.raises(ValueError, match=f"export_hf: {words}"):
        export_hf(model, tokenizer, saved)
    assert load(saved)[0].config == CONFIGS["llama"]
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_what_is_no_model_is_refused_by_its_class(tmp_path):
    with pytest.raises(ValueError, match="model is a Linear, expected one of Decoder, Encoder, "):
        save(tmp_path / "m", torch.nn.Linear(2, 2), None)
    assert not list(tmp_path.iterdir())


def test_a_damaged_tokenizer_is_named(saved):
    pytest.importorskip("fusedlm.data.tokenizer")
    (saved / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptFileError, match=r"tokenizer\.json"):
        load(saved)
