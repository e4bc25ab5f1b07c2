from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fusedlm.data import (
    Batches,
    PackedData,
    PackedWriter,
    bigram_loss,
    pack_text,
    train_bpe,
    validation_batches,
)  # fmt: skip
from fusedlm.errors import CorruptFileError


@pytest.mark.parametrize("vocab_size", [300, 70_000])
def test_what_is_written_is_read(tmp_path, vocab_size):
    ids = np.arange(1000) % vocab_size
    ids[-1] = vocab_size - 1
    with PackedWriter(tmp_path / "sub" / "a.bin", vocab_size) as writer:
        writer.add(ids[:10])
        writer.add(ids[10:].tolist())
    data = PackedData(tmp_path / "sub" / "a.bin")
    assert len(data) == 1000 and data.vocab_size == vocab_size
    assert np.array_equal(data.ids, ids)
    assert data.fingerprint() == PackedData.of(ids, vocab_size).fingerprint()


def test_a_failed_writer_leaves_the_old_file_and_no_other(tmp_path):
    with PackedWriter(tmp_path / "a.bin", 300) as writer:
        writer.add([1, 2, 3])
    with pytest.raises(ValueError, match="ids holds 300, expected 0 to 299"):
        with PackedWriter(tmp_path / "a.bin", 300) as writer:
            writer.add([4, 300])
    assert PackedData(tmp_path / "a.bin").ids.tolist() == [1, 2, 3]
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_that_cannot_take_its_place_is_not_left_behind(tmp_path):
    (tmp_path / "a.bin" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=r"a\.bin"):
        with PackedWriter(tmp_path / "a.bin", 300) as writer:
            writer.add([1])
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_two_writers_at_once_do_not_write_into_one_file(tmp_path, monkeypatch):
    with PackedWriter(tmp_path / "a.bin", 300) as first:
        first.add([1, 2])
        monkeypatch.setattr("os.getpid", lambda: 1)
        with PackedWriter(tmp_path / "a.bin", 300) as second:
            second.add([3])
        assert PackedData(tmp_path / "a.bin").ids.tolist() == [3]
        first.add([4])
    assert PackedData(tmp_path / "a.bin").ids.tolist() == [1, 2, 4]
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.5, 2.0], "ids are float64, expected integers"),
        (np.array([True]), "ids are bool, expected integers"),
        (["1"], "ids are <U1, expected integers"),
        ([[1, 2], [3, 4]], r"ids have the shape \[2, 2\], expected one dimension"),
        (3, r"ids have the shape \[\], expected one dimension"),
        ([-1, 2], "ids holds -1, expected 0 to 299"),
        (np.array([2**64 - 1], np.uint64), f"ids holds {2**64 - 1}, expected 0 to 299"),
    ],
)
def test_tokens_are_integers_of_the_vocabulary_in_one_row(tmp_path, ids, message):
    with pytest.raises(ValueError, match="PackedData: " + message):
        PackedData.of(ids, 300)
    with pytest.raises(ValueError, match="PackedWriter: " + message):
        with PackedWriter(tmp_path / "a.bin", 300) as writer:
            writer.add(ids)
    assert len(PackedData.of([], 300)) == 0


@pytest.mark.parametrize("damage", ["cut", "long", "magic", "empty"])
def test_a_damaged_file_is_named(tmp_path, damage):
    file = tmp_path / "a.bin"
    with PackedWriter(file, 300) as writer:
        writer.add(range(100))
    content = file.read_bytes()
    broken = {
        "cut": content[:-3],
        "long": content + b"x",
        "magic": b"x" + content[1:],
        "empty": b"",
    }
    file.write_bytes(broken[damage])
    with pytest.raises(CorruptFileError, match=r"a\.bin"):
        PackedData(file)
    with pytest.raises(FileNotFoundError, match=r"b\.bin is missing"):
        PackedData(tmp_path / "b.bin")


def test_packing_keeps_the_text_and_splits_at_the_end():
    text = "line one\nline two\n\n" * 400
    tokenizer = train_bpe(text, 280)
    data = pack_text(text, tokenizer)
    assert tokenizer.decode(data.ids.tolist()) == text
    train, validation = data.split(0.1)
    assert len(validation) == len(data) // 10
    assert np.array_equal(np.concatenate([train.ids, validation.ids]), data.ids)


def numbered(count: int) -> PackedData:
    return PackedData.of(np.arange(count), count)


def test_an_epoch_visits_disjoint_windows_and_targets_follow_tokens():
    batches = Batches(numbered(1000), batch=3, context=16, seed=1)
    seen = []
    for _ in range(batches.windows // 3):
        tokens, targets = batches.next()
        assert tokens.dtype == torch.int64 and tokens.shape == (3, 16)
        assert torch.equal(targets, tokens + 1)
        seen += tokens.flatten().tolist()
    assert len(seen) == len(set(seen)) > 900
    assert seen != sorted(seen)


def test_epochs_and_seeds_differ():
    def first(seed, skip=0):
        batches = Batches(numbered(1000), batch=60, context=16, seed=seed)
        for _ in range(skip):
            batches.next()
        return batches.next()[0].tolist()

    assert first(0) == first(0)
    assert first(0) != first(1)
    assert first(0) != first(0, skip=1)


def test_a_loaded_state_goes_on_exactly():
    batches = Batches(numbered(500), batch=4, context=16, seed=2)
    for _ in range(19):  # into a later epoch
        batches.next()
    other = Batches(numbered(500), batch=4, context=16, seed=2)
    other.load_state_dict(batches.state_dict())
    for _ in range(10):
        assert torch.equal(batches.next()[0], other.next()[0])
    with pytest.raises(ValueError, match="the state has seed 2, expected 3"):
        Batches(numbered(500), batch=4, context=16, seed=3).load_state_dict(batches.state_dict())


def test_short_data():
    tokens, targets = Batches(numbered(17), batch=2, context=16).next()
    assert tokens.tolist() == [list(range(16))] * 2 and targets[0, -1] == 16
    with pytest.raises(ValueError, match=r"16 tokens, expected at least context \+ 1 = 17"):
        Batches(numbered(16), batch=2, context=16)


def test_validation_covers_everything_once_in_order():
    pieces = [t for tokens, _ in validation_batches(numbered(100), 2, 16) for t in tokens]
    assert torch.equal(torch.cat(pieces), torch.arange(96))
    assert len(list(validation_batches(numbered(1000), 2, 16, limit=3))) == 3
    ((tokens, targets),) = validation_batches(numbered(9), 2, 16)
    assert tokens.tolist() == [list(range(8))] and targets[0, -1] == 8


@pytest.mark.parametrize("sizes", [(0, 16), (2, 0), (-1, 16)])
def test_batches_without_rows_or_tokens_are_refused(sizes):
    message = f": batch is {sizes[0]}, context {sizes[1]}, expected at least 1"
    for make in (Batches, lambda *given: next(validation_batches(*given))):
        with pytest.raises(ValueError, match=message):
            make(numbered(100), *sizes)


def test_bigram_loss_of_another_vocabulary_is_refused():
    train, other = PackedData.of([0, 1] * 50, 2), PackedData.of([0, 4], 5)
    with pytest.raises(ValueError, match="validation has a vocabulary of 5 tokens, train of 2"):
        bigram_loss(train, other)


def test_bigram_loss_of_known_chains():
    train = PackedData.of([0, 1] * 500, 2)
    assert bigram_loss(train, PackedData.of([0, 1] * 50, 2)) < 0.02
    random = np.random.default_rng(0).integers(0, 4, 20_000)
    loss = bigram_loss(PackedData.of(random[:10_000], 4), PackedData.of(random[10_000:], 4))
    assert loss == pytest.approx(math.log(4), abs=0.01)
