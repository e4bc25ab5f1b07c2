"""Markup, characters, sentences, words, stop words, tags."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from fusedlm.data.preprocess import (
    chinese_tagger,
    chinese_words,
    english_tagger,
    english_words,
    load_stop_words,
    normalise,
    split_sentences,
    squeeze,
    strip_html,
)
from fusedlm.data.preprocess.characters import guess_language, main_script
from fusedlm.data.preprocess.words import english_parts, plain_words


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("fish &amp; chips &#8211; &#x20AC;5 &lt;b&gt;", "fish & chips – €5 <b>"),
        ("one<br />two<BR>three<p class='a'>four</p>", "one\ntwo\nthree\nfour\n"),
        ('<a href="x" title="a > b">link</a>, <i>it</i>', "link, it"),
        ("<img src=a.jpg border=0 nowrap>x<font size=+1>y", "xy"),
        ("a<!-- <p> no -->b<script>if (a < b) {}</script>c<STYLE>p{}</style>d", "abcd"),
        ("<!DOCTYPE html><?xml version='1.0'?><html>x", "\nx"),
        ("<td>1</td><td>2</td>", " 1  2 "),
    ],
)
def test_markup_goes_and_the_text_stays(markup, text):
    assert strip_html(markup) == text


@pytest.mark.parametrize(
    "text",
    [
        "a <b and c> d",
        "List<String> x",
        "x < y > z",
        "1<2",
        "AT&T",
        "?a=1&copy=2",
        "<3",
        "<!-- open",
    ],
)
def test_what_only_looks_like_markup_stays(text):
    assert strip_html(text) == text


def test_text_of_a_page_equals_that_of_the_standard_parser():
    class Text(HTMLParser):
        def __init__(self):
            super().__init__()
            self.pieces: list[str] = []

        def handle_data(self, data):
            self.pieces.append(data)

    page = (
        "<h1>On &quot;cats&quot;</h1>" + "<p><b>Cats</b> &amp; <a href='d'>dogs</a>&nbsp;x</p>" * 9
    )
    parser = Text()
    parser.feed(page)
    parser.close()
    assert strip_html(page).split() == "\n".join(parser.pieces).replace("Cats\n", "Cats").split()


@pytest.mark.parametrize("start", ["<!--", "<script>", "<a b='", "<a ", "&", "<"])
def test_unclosed_markup_is_no_trouble_however_much_there_is(start):
    text = start * 30_000
    assert len(strip_html(text)) <= len(text)  # a time that grows with its square would not end


def test_one_unicode_form_without_invisible_characters():
    assert normalise("cafe\u0301 ﬁne Ａ", "NFC") == "café ﬁne Ａ"
    assert normalise("cafe\u0301 ﬁne Ａ", "NFKC") == "café fine A"
    assert normalise("\ufeffa\u200bb\u00adc\x00\r\nd\u2028e\x0cf", "NFC") == "abc\nd\ne\nf"
    assert normalise("\x1b[1;32mgreen\x1b[0m \x1b]0;title\x07x", "NFC") == "green x"
    family = "👩\u200d👩\u200d👧"
    assert normalise(family, "NFC") == family


def test_dashes_of_windows_that_were_read_as_latin_1_come_back():
    assert normalise("fun\x97too \x93much\x94\x85", "NFC") == "fun—too “much”…"


def test_spaces_are_squeezed():
    assert squeeze("  a \t b\u3000c\u00a0d \n\n\n\n e  ") == "a b c d\n\ne"


def test_languages_and_scripts_are_told_apart():
    assert guess_language("春眠不觉晓 abc") == "zh" and guess_language("only English") == "en"
    scripts = ["plain", "naïve", "привет", "春眠", "かな漢かな", "한국어", "123"]
    expected = ["Latin", "Latin", "Cyrillic", "Han", "Kana", "Hangul", "none"]
    assert [main_script(text) for text in scripts] == expected


ENGLISH = [
    "Dr. Smith paid $3.50 to J. S. Bach at 5 p.m. on Nov. 3.",
    'He asked, "Why?"',
    "Nobody knew!",
    "He left the U.S. Army.",
    "She stayed in the U.S.",
    "The U.S. economy grew... or so they say, e.g. in the N.Y. Times.",
    "See fig. 3 and pp. 7-9.",
    "I said no.",
    "It was 9 a.m.",
    "They left (all of them).",
    "Then came Mr. Jones, etc.",
    "Wait…",
    "What?!",
    "OK",
]
CHINESE = ["春眠不觉晓。", "“你好！”", "他问：“为什么？”", "真的吗？！", "我不知道……", "好"]


def test_english_sentences():
    assert split_sentences(" ".join(ENGLISH)) == ENGLISH


def test_chinese_sentences_need_no_blanks():
    joined = "春眠不觉晓。“你好！”他问：“为什么？”真的吗？！好"
    assert split_sentences(joined) == [s for s in CHINESE if s != "我不知道……"]


def test_an_empty_line_ends_a_sentence_and_a_line_end_does_not():
    assert split_sentences("A title\n\nand a\nsentence") == ["A title", "and a sentence"]
    assert split_sentences(" \n ") == []


def test_english_words_and_their_parts():
    text = "Don't stop: it's 3.5% of the U.S. well-known [EMAIL]... café_x"
    words = ["Don't", "stop", ":", "it's", "3.5%", "of", "the", "U.S.", "well-known", "[EMAIL]", "...",
             "café", "_", "x"]  # fmt: skip
    assert [text[a:b] for a, b in english_words(text)] == words
    text = "I can't, they’ve cats' cannot"
    parts = ["I", "ca", "n't", ",", "they", "’ve", "cats", "'", "can", "not"]
    assert [text[a:b] for a, b in english_parts(text)] == parts


def test_plain_words_take_chinese_characters_one_by_one():
    assert plain_words("Don't 我喜欢 GPT-2！") == ["don't", "我", "喜", "欢", "gpt", "2"]


def test_chinese_words_are_those_of_jieba_and_cover_the_text():
    pytest.importorskip("rjieba")
    text = "我喜欢编程， 他来到了 北京"
    words = [text[a:b] for a, b in chinese_words()(text)]
    assert words[:4] == ["我", "喜欢", "编程", "，"]
    assert "".join(words) == text.replace(" ", "")
    spans, tags = chinese_tagger()(text)
    assert [text[a:b] for a, b in spans] == words
    assert dict(zip(words, tags, strict=True))["喜欢"] == "v"


# What the first letters of C5 tags are in the letters of tagged_en.txt.
_COARSE = {
    "NN": "N", "NP": "N", "V": "V", "AJ": "A", "DT": "A", "AV": "R", "XX": "R", "PN": "P", "DPS": "P",
    "AT": "D", "PR": "I", "CJS": "I", "CJT": "P", "CJC": "C", "CRD": "M", "ORD": "A", "TO": "T", "PU": "X",
}  # fmt: skip


def test_english_tags_are_right_for_95_percent_of_words_that_could_be_several_things():
    pytest.importorskip("HanTa")
    lines = Path(__file__).with_name("tagged_en.txt").read_text().splitlines()
    pairs = [pair.rsplit("/", 1) for line in lines for pair in line.split()]
    tags = english_tagger()([word for word, _ in pairs])
    coarse = [next((c for start, c in _COARSE.items() if t.startswith(start)), t) for t in tags]
    right = sum(tag == gold for tag, (_, gold) in zip(coarse, pairs, strict=True))
    assert right / len(pairs) > 0.95


def test_a_tag_for_every_word_however_odd():
    pytest.importorskip("HanTa")
    words = ["x" * 5000, "☃", "你好", "[EMAIL]", "\u0301", "-", *["word"] * 500]
    assert len(english_tagger()(words)) == len(words)
    assert english_tagger()([]) == []


def test_stop_words_of_both_languages_and_of_own(tmp_path):
    assert {"the", "don't", "don’t"} <= load_stop_words("en") and "的" in load_stop_words("zh")
    (tmp_path / "mine.txt").write_text("# comment\nFoo bar  # and more\n")
    assert load_stop_words(f"zh,{tmp_path / 'mine.txt'}") >= {"的", "foo", "bar"}
    assert "and" not in load_stop_words(str(tmp_path / "mine.txt"))


def test_bad_lists_of_stop_words_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="stop words: fr is neither a file nor one of en, zh"
    ):
        load_stop_words("fr")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"empty\.txt holds no words"):
        load_stop_words(str(tmp_path / "empty.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        load_stop_words(str(tmp_path / "latin.txt"))
