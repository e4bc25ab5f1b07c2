from __future__ import annotations

import pytest
import tokenizers

from fusedlm.data import CORPORA, Tokenizer, load_corpus, pack_text, train_bpe, train_chars
from fusedlm.errors import CorruptFileError

HARD = "Zoë naïve ☃ 你好\r\n\t  two  spaces 👩‍👩‍👧 \x00 end"


def test_the_shipped_corpus_is_a_megabyte_of_plain_text():
    assert "shakespeare" in CORPORA
    text = load_corpus("shakespeare")
    assert len(text) > 1_000_000 and "To be, or not to be" in text
    assert not set(text) & set("*_#<>\r")


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "c.png").write_bytes(b"\xff")
    assert load_corpus(tmp_path) == "first\n\nsecond"


def test_byte_order_mark_and_dos_line_ends_are_taken_off(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo".encode())
    assert load_corpus(tmp_path / "a.txt") == "one\ntwo"


def test_bad_texts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt is neither .*shakespeare"):
        load_corpus("nothing.txt")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"empty\.txt holds no text"):
        load_corpus(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8: byte 0xef at offset 2"):
        load_corpus(tmp_path / "latin.txt")
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="none holds no"):
        load_corpus(tmp_path / "none")


def test_bpe_returns_any_text_unchanged():
    tokenizer = train_bpe("the cat sat on the mat " * 20, 300)
    assert tokenizer.decode(tokenizer.encode(HARD)) == HARD
    assert tokenizer.vocab_size <= 300
    assert len(tokenizer.encode("the cat")) < len("the cat")


def test_characters_are_one_token_each_and_unknown_ones_are_left_out():
    tokenizer = train_chars("abc\n")
    assert tokenizer.vocab_size == 6
    ids = tokenizer.encode("ca\nx b")
    assert len(ids) == 6
    assert tokenizer.decode(ids) == "ca\nb"


@pytest.mark.parametrize("train", [lambda t: train_bpe(t, 280), train_chars])
def test_saving_and_loading_changes_nothing(tmp_path, train):
    tokenizer = train("so many words, so many worlds")
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.encode("so many worms") == tokenizer.encode("so many worms")
    assert (again.vocab_size, again.eos_id) == (tokenizer.vocab_size, tokenizer.eos_id)


def test_the_end_of_text_token_is_never_part_of_a_text():
    tokenizer = train_bpe("plain words", 270)
    assert tokenizer.eos_id is not None
    assert tokenizer.decode([*tokenizer.encode("plain"), tokenizer.eos_id]) == "plain"


def test_bad_arguments_and_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="train_bpe: vocab_size is 256"):
        train_bpe("text", 256)
    with pytest.raises(ValueError, match="train_chars: texts is empty"):
        train_chars("")
    with pytest.raises(ValueError, match="ids holds 9999"):
        train_chars("ab").decode([9999])
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(CorruptFileError, match=r"tokenizer\.json: not a valid tokenizer"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_what_is_no_text_is_named():
    tokenizer = train_chars("ab")
    for other, kind in ((5, "int"), (None, "NoneType"), (["a"], "list")):
        with pytest.raises(ValueError, match=f"a text is of type {kind}, expected str"):
            tokenizer.encode(other)
    with pytest.raises(ValueError, match="a text is of type float, expected str"):
        tokenizer.encode_batch(["a", 0.5])
    with pytest.raises(ValueError, match="holds half of a surrogate pair"):
        tokenizer.encode_batch(["a", "\ud800"])


@pytest.mark.parametrize("longest", [None, 2, 50])
def test_an_unknown_way_to_cut_is_named(longest):
    with pytest.raises(ValueError, match="cut is 'start', expected end or middle"):
        train_chars("abc").encode_batch(["abcabc"], longest=longest, cut="start")


def test_ids_may_have_gaps():
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 5}, unk_token="a"))
    tokenizer = Tokenizer(inner)
    assert tokenizer.vocab_size == 6
    assert tokenizer.decode(tokenizer.encode("b")) == "b"
    assert pack_text("b", tokenizer).ids.tolist() == [5]
    with pytest.raises(ValueError, match="ids holds 6, expected 0 to 5"):
        tokenizer.decode([6])


def test_what_surrounds_a_text_stays_where_a_long_one_is_cut():
    from tokenizers import processors

    tokenizer = train_bpe("abc abd abe " * 20, 270)
    plain = tokenizer.encode("abc abd abe")
    end = tokenizer.eos_id
    tokenizer._inner.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    assert tokenizer.encode("abc abd abe") == plain
    assert tokenizer.encode("abc abd abe", add_special=True) == [end, *plain, end]
    rows = tokenizer.encode_batch(["abc abd abe", "", "a"], add_special=True, longest=4)
    assert rows == [[end, *plain[:2], end], [end, end], [end, *tokenizer.encode("a"), end]]
    assert tokenizer.encode_batch(["abc abd abe"], longest=2) == [plain[:2]]
    with pytest.raises(ValueError, match="longest is 2, expected at least 3"):
        tokenizer.encode_batch(["a"], add_special=True, longest=2)


def test_padding_and_truncation_of_a_foreign_file_do_not_act(tmp_path):
    tokenizer = train_bpe("abc abd abe " * 20, 270)
    tokenizer._inner.enable_padding(length=50)
    tokenizer._inner.enable_truncation(2)
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.encode("abc abd") == train_bpe("abc abd abe " * 20, 270).encode("abc abd")


def test_settings_say_which_tokens_are_special():
    inner = train_bpe("abc " * 20, 270)._inner
    tokenizer = Tokenizer(inner, {"eos_token": {"content": "c"}, "bos_token": "a"}, [3, 3])
    assert tokenizer.special == {"eos_token": "c", "bos_token": "a"}
    assert tokenizer.eos_id == tokenizer.token_id("c")
    assert tokenizer.end_ids == (tokenizer.token_id("c"), 3)
    assert train_bpe("abc " * 20, 270).end_ids == (train_bpe("abc " * 20, 270).eos_id,)
