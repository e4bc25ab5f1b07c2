"""What classifies: n-gram weights, the mean of an encoder, a decoder's last token; packed as alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from fusedlm.data import train_bpe, train_words
from fusedlm.errors import CorruptFileError
from fusedlm.models import (
    Decoder,
    DecoderClassifier,
    DecoderClassifierConfig,
    Encoder,
    EncoderConfig,
    classify_texts,
    export_hf,
    load,
    save,
)
from fusedlm.models.ngrams import NGrams
from fusedlm.models.packed import Packed
from fusedlm.models.texts import class_names
from tests.support.small import CONFIGS, small_model

LABELS = ["no", "perhaps", "yes"]
ENCODER = EncoderConfig(
    61, context=24, layers=2, width=32, heads=4, ffn_width=48, types=0, task="sequence",
    labels=LABELS, head="mean", ngrams=2, ngram_buckets=1 << 16, dropout=0.1,
)  # fmt: skip


def rows(lengths=(19, 1, 7, 24)) -> list[list[int]]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(61, (n,), generator=draw).tolist() for n in lengths]


def encoder(config: EncoderConfig = ENCODER) -> Encoder:
    torch.manual_seed(1)
    model = Encoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def decoder_classifier(name: str = "llama", **fields) -> DecoderClassifier:
    model = DecoderClassifier.of(small_model(name), LABELS, **fields)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


MODELS = {
    "encoder": encoder,
    "encoder whose ngrams read more": lambda: encoder(
        replace(ENCODER, max_tokens=5, cut="middle", ngram_tokens=24)
    ),
    "encoder of the first token": lambda: encoder(replace(ENCODER, head="dense", ngrams=0)),
    "gpt2": lambda: decoder_classifier("gpt2"),
    "llama": decoder_classifier,
    "mean of qwen": lambda: decoder_classifier("qwen", pooling="mean"),
    "tokens of a decoder": lambda: decoder_classifier(task="token"),
}


def test_a_decoder_under_a_classifier_keeps_its_head_and_shares_the_rest():
    decoder = small_model("llama")
    tokens, config = torch.arange(20)[None], decoder.config
    expected = decoder(tokens)
    model = DecoderClassifier.of(decoder, LABELS)
    assert not config.tied and decoder.config is config and model.decoder.head is None
    assert torch.equal(decoder(tokens), expected)
    shared = dict(decoder.named_parameters())
    assert all(shared[name] is value for name, value in model.decoder.named_parameters())
    assert shared.keys() - dict(model.decoder.named_parameters()).keys() == {"head.weight"}
    assert model.state_dict().keys() == DecoderClassifier(model.config).state_dict().keys()


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_packed_texts_get_what_each_gets_alone(make):
    model = make()
    with torch.no_grad():
        together = model.classify_packed(Packed.of(rows()))
        alone = torch.cat([model.classify_packed(Packed.of([row])) for row in rows()])
    assert together.shape[1] == 3 and together.std() > 0.01
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_the_loss_is_the_cross_entropy_of_the_logits_and_any_number_of_threads_gives_its_bits(make):
    model, packed = make(), Packed.of(rows())
    count = len(packed.tokens) if model.config.task == "token" else len(rows())
    targets = torch.arange(count) % 3
    logits = model.classify_packed(packed)
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    found = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            model.zero_grad()
            loss = model.classify_packed(packed, targets, label_smoothing=0.1)
            loss.backward()
            found.append(
                [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
            )
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0][0], expected.detach(), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_ngrams_are_sums_of_a_table_over_all_tokens_and_pairs():
    torch.manual_seed(0)
    table = NGrams(2, 1 << 20, 3, scale=7.0)
    texts = rows((5, 2, 9))
    packed = Packed.of(texts)
    buckets = table.buckets(packed)
    names = {}  # the n-gram of each bucket: at this size none share one
    for number, token in enumerate(packed.tokens.tolist()):
        begins = number in packed.starts.tolist()
        pair = (None if begins else packed.tokens[number - 1].item(), token)
        for gram, bucket in zip(((token,), pair), buckets[number].tolist(), strict=True):
            assert names.setdefault(bucket, gram) == gram
    with torch.no_grad():
        table.weight.normal_()
    of = {gram: table.weight[bucket] for bucket, gram in names.items()}
    for text, found in zip(texts, table(packed), strict=True):
        pairs = zip([None, *text], text, strict=False)
        grams = [(token,) for token in text] + list(pairs)
        expected = 7 * sum(of[gram] for gram in grams) / len(grams) ** 0.5
        torch.testing.assert_close(found, expected)


def test_ngrams_may_read_more_than_the_encoder_which_gets_both_ends():
    config = replace(ENCODER, max_tokens=6, cut="middle", ngram_tokens=20)
    assert config.read_tokens == 20
    model = encoder(config)
    texts = rows((19, 1, 7, 6))
    ends = [row if len(row) <= 6 else row[:3] + row[-3:] for row in texts]
    short = Packed.of(texts).without_middles(6)
    for found, expected in zip(
        (short.tokens, short.positions, short.starts),
        (Packed.of(ends).tokens, Packed.of(ends).positions, Packed.of(ends).starts), strict=True,
    ):  # fmt: skip
        assert torch.equal(found, expected)
    deep = model.classifier(model.features(Packed.of(ends)))
    logits = model.classify_packed(Packed.of(texts))
    torch.testing.assert_close(logits, deep + model.ngrams(Packed.of(texts)), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="ngram_tokens is 20, expected None, but with ngrams"):
        replace(config, ngrams=0)
    with pytest.raises(ValueError, match="ngram_tokens is 5, expected an integer from 6"):
        replace(config, ngram_tokens=5)


def test_the_last_token_of_a_decoder_stands_for_the_text():
    base = small_model("llama")
    tokens = torch.tensor([rows()[0]])
    captured = []
    base.final_norm.register_forward_hook(lambda _, __, out: captured.append(out[0]))
    base(tokens)
    model = decoder_classifier()
    expected = captured[0][0, -1] @ model.classifier.weight.T + model.classifier.bias
    found = model.classify_packed(Packed.of([rows()[0]]))[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_a_classifier_survives_its_folder(make, tmp_path):
    model = make()
    save(tmp_path / "m", model, None)
    again, _ = load(tmp_path / "m")
    assert type(again) is type(model) and again.config == model.config and not again.training
    packed = Packed.of(rows())
    assert torch.equal(again.classify_packed(packed), model.classify_packed(packed))


def test_texts_are_cut_in_the_middle_or_at_the_end_and_one_alone_is_a_row():
    words = train_words(["a b c d e f g h i j"], 40)
    model = encoder(replace(ENCODER, vocab_size=words.vocab_size, max_tokens=4, cut="middle"))
    probabilities = classify_texts(model, words, ["a b x x x x i j", "a b i j", "a b c d"])
    assert probabilities.shape == (3, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))
    torch.testing.assert_close(probabilities[0], probabilities[1])
    model.config = replace(model.config, cut="end")
    torch.testing.assert_close(classify_texts(model, words, "a b c d i j"), probabilities[2])
    with pytest.raises(ValueError, match="task is None, expected 'sequence'"):
        classify_texts(small_model("gpt2"), words, "a")


def test_cutting_keeps_the_tokens_around_a_text_and_an_enormous_one_takes_no_longer():
    from tokenizers import processors

    words = train_words(["a b c d e f g h"], 40)
    edges = [("a", words.token_id("a")), ("h", words.token_id("h"))]
    words._inner.post_processor = processors.BertProcessing(edges[1], edges[0])
    cut = lambda text, **options: [  # noqa: E731
        words._inner.id_to_token(i)
        for i in words.encode_batch([text], add_special=True, **options)[0]
    ]
    assert cut("b c d e f g", longest=5, cut="middle") == ["a", "b", "c", "g", "h"]
    assert cut("b c d e f g", longest=5) == ["a", "b", "c", "d", "h"]
    assert cut("b c", longest=5, cut="middle") == ["a", "b", "c", "h"]
    enormous = "b " * 2_000_000 + "g"
    assert cut(enormous, longest=5, cut="middle") == ["a", "b", "b", "g", "h"]


def test_word_tokenizers_know_frequent_words_and_read_no_tags(tmp_path):
    words = train_words(["The cat -- the dog! 我喜欢", "the DOG"], 8).without_tags()
    words.save(tmp_path / "tokenizer.json")
    tokens = lambda text: words._inner.encode(text).tokens  # noqa: E731
    assert tokens("THE dog<br />the") == ["the", "dog", "the"]
    assert words.vocab_size == 8 and tokens("unheard") == ["<|unknown|>"]
    assert type(words).load(tmp_path / "tokenizer.json").encode("<b>dog</b>") == words.encode("dog")
    assert tokens("a < b and c > d")[1] == "<|unknown|>"  # no tag
    plain = train_bpe(["a < b <br /> c"], 260)
    assert plain.without_tags().encode("a<br />c") == plain.encode("a c")
    with pytest.raises(ValueError, match="vocab_size is 2"):
        train_words(["x"], 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "max"}, "head is 'max', expected one of dense, mean"),
        ({"cut": "start"}, "cut is 'start'"),
        ({"task": "token"}, "ngrams is 2, expected 0"),
        ({"ngrams": -1}, "ngrams is -1"),
    ],
)
def test_a_bad_field_of_an_encoder_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(ENCODER, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": []}, "labels is"), ({"pooling": "max"}, "pooling is 'max'"),
        ({"task": None}, "task is None"), ({"decoder": 3}, "decoder is 3"),
        ({"max_tokens": 0}, "max_tokens is 0"),
    ],
)  # fmt: skip
def test_a_bad_field_of_a_decoder_that_classifies_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        DecoderClassifierConfig(**{"decoder": CONFIGS["llama"], "labels": LABELS, **changes})


def test_a_folder_of_another_kind_and_an_export_that_no_model_computes_are_refused(tmp_path):
    save(tmp_path / "m", encoder(), None)
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "kind": "oracle"}))
    with pytest.raises(CorruptFileError, match="kind is 'oracle'"):
        load(tmp_path / "m")
    with pytest.raises(ValueError, match="export_hf: ngrams is 2"):
        export_hf(encoder(), None, tmp_path / "x")
    with pytest.raises(ValueError, match="export_hf: head is 'mean'"):
        export_hf(encoder(replace(ENCODER, ngrams=0)), None, tmp_path / "x")
    with pytest.raises(ValueError, match="export_hf: model is a DecoderClassifier"):
        export_hf(decoder_classifier(), None, tmp_path / "x")
    assert isinstance(small_model("llama"), Decoder)


def test_an_encoder_without_a_task_says_so_where_classes_are_asked_for():
    model = Encoder(replace(ENCODER, task=None, labels=None, head="dense", ngrams=0))
    packed = Packed.of(rows())
    with pytest.raises(ValueError, match=r"config\.task is None; a classifier needs 'sequence'"):
        model.classify_packed(packed)
    with pytest.raises(ValueError, match=r"need config\.pooler or config\.task 'sequence'"):
        model.features(packed)
    with pytest.raises(ValueError, match=r"no classes: its config\.task is None"):
        class_names(model)
