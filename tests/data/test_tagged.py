"""CoNLL files: which lines are words, which sentences are left out."""

from __future__ import annotations

import pytest

from fusedlm.data.tagged import Tagged, read_tagged, tag_names

FILE = """-DOCSTART- -X- -X- O

# id 7
Ada NNP B-NP B-PER
Lovelace NNP I-NP I-PER
slept VBD B-VP O

# NN B-NP O
1 CD I-NP O

"""


def test_words_and_tags_come_from_the_first_and_last_column(tmp_path):
    (tmp_path / "a.conll").write_text(FILE)
    data = read_tagged(tmp_path / "a.conll")
    assert data.sentences == [["Ada", "Lovelace", "slept"], ["#", "1"]]
    assert data.tags == [["B-PER", "I-PER", "O"], ["O", "O"]]
    chunks = read_tagged(tmp_path / "a.conll", tag=2)
    assert chunks.tags[0] == ["B-NP", "I-NP", "B-VP"]


def test_the_word_for_a_number_sign_is_no_comment_where_the_tag_is_not_last(tmp_path):
    (tmp_path / "a.conll").write_text("# O NN\n1 O CD\n# id = 7\n")
    data = read_tagged(tmp_path / "a.conll", tag=1)
    assert (data.sentences, data.tags) == ([["#", "1"]], [["O", "O"]])
    (tmp_path / "b.conll").write_text("# NN O\n1 CD O\n# id = 7\n#\n")
    assert read_tagged(tmp_path / "b.conll").sentences == [["#", "1"]]


@pytest.mark.parametrize("columns", [{"tag": -3}, {"word": -3}, {"tag": 2}, {"word": 1}])
def test_columns_that_are_not_there_are_words_without_tags(tmp_path, columns):
    (tmp_path / "a.bio").write_text("O\tO\n")
    with pytest.raises(ValueError, match=r"a\.bio holds no tagged .*: a word without a tag"):
        read_tagged(tmp_path / "a.bio", **columns)


def test_sentences_that_cannot_be_used_are_counted(tmp_path):
    lines = b"a\tO\n\nb\n\nc\tB-X\n\xff\tO\n\nd\tPER\n\ne f\tB-X"
    (tmp_path / "a.bio").write_bytes(lines)
    data = read_tagged(tmp_path / "a.bio")
    assert data.sentences == [["a"], ["e f"]]
    assert data.skipped.counts == {
        "a word without a tag": 1, "not UTF-8": 1, "a tag that is neither O nor like B-...": 1,
    }  # fmt: skip
    assert data.skipped.first["not UTF-8"] == "a.bio:5"
    (tmp_path / "b.bio").write_text("word\n")
    with pytest.raises(ValueError, match=r"b\.bio holds no tagged sentence; 1 left out"):
        read_tagged(tmp_path / "b.bio")
    with pytest.raises(FileNotFoundError, match=r"c\.bio is missing"):
        read_tagged(tmp_path / "c.bio")


def test_tags_have_o_first_and_entities_must_occur():
    assert tag_names([["O", "B-X"], ["B-A", "O"]]) == ["O", "B-A", "B-X"]
    with pytest.raises(ValueError, match="all words to train on have the tag 'O'"):
        tag_names([["O"]])


def test_equal_sentences_are_on_one_side_of_a_split():
    data = Tagged([[f"w{i % 50}"] for i in range(200)], [["O"]] * 200)
    rest, part = data.split(0.3, "test")
    assert len(rest) + len(part) == 200 and len(part)
    assert not {s[0] for s in rest.sentences} & {s[0] for s in part.sentences}
