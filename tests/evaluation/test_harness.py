"""FusedLM as lm-evaluation-harness calls it."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from types import SimpleNamespace

import pytest
import torch

from fusedlm.evaluation import harness, read_items, score_items
from fusedlm.evaluation.multiple_choice import summary
from tests.evaluation.test_likelihood import CONFIGS, by_torch, likelihoods_of
from tests.support.small import small_model
from tests.support.tiny import save_tiny_model

HAS_HARNESS = importlib.util.find_spec("lm_eval") is not None


def test_without_the_harness_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match="pip install lm_eval"):
        harness._fused_lm.__wrapped__()


@pytest.mark.skipif(not HAS_HARNESS, reason="lm_eval is not installed")
def test_it_is_a_model_of_the_harness_with_the_decoders_numbers():
    decoder = small_model(CONFIGS["llama"])
    model = harness.FusedLM(likelihoods_of(decoder).model, dtype="float32", progress=False)
    from lm_eval.api.model import LM

    assert isinstance(model, LM)
    check(model, decoder)


@pytest.mark.skipif(not HAS_HARNESS, reason="lm_eval is not installed")
def test_a_task_of_the_harness_scores_as_our_own_multiple_choice_does(tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    import lm_eval

    draw = random.Random(0)
    words = [f" {word}" for word in "one two three four five six".split()]
    rows = [
        {"query": draw.choice(words), "choices": draw.sample(words, 3), "gold": draw.randrange(3)}
        for _ in range(40)
    ]
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    likelihoods = likelihoods_of(small_model(CONFIGS["llama"]))
    task = {
        "task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{query}}",
        "doc_to_target": "gold", "doc_to_choice": "{{choices}}", "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    model = harness.FusedLM(likelihoods.model, dtype="float32", progress=False)
    found = lm_eval.simple_evaluate(model=model, tasks=[task], bootstrap_iters=0)["results"]["mine"]
    ours = summary(score_items(likelihoods, read_items(file), delimiter=""))
    assert found["acc,none"] == pytest.approx(ours["acc"])
    assert found["acc_norm,none"] == pytest.approx(ours["acc_norm"])


@pytest.mark.skipif(not HAS_HARNESS, reason="lm_eval is not installed")
def test_the_harness_knows_the_model_by_name_on_its_command_line(tmp_path, monkeypatch, capsys):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    from lm_eval.api.registry import get_model

    rows = [{"query": "the quick", "choices": [" fox", " 0123"], "gold": n % 2} for n in range(6)]
    items = tmp_path / "items.jsonl"
    items.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
        f"dataset_kwargs: {{data_files: {{test: {items}}}}}\n"
        "doc_to_text: '{{query}}'\ndoc_to_target: gold\ndoc_to_choice: '{{choices}}'\n"
        "target_delimiter: ''\nmetric_list: [{metric: acc}]\n"
    )
    model = save_tiny_model(tmp_path / "model")
    command = [
        "run", "--model", "fusedlm", "--model_args", f"model={model},dtype=float32,progress=False",
        "--tasks", "mine", "--include_path", tmp_path / "tasks",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["lm_eval", *map(str, command)])
    harness.main()
    assert get_model("fusedlm") is harness.FusedLM and get_model("hf") is not None
    assert "|mine |" in (said := capsys.readouterr().out) and "0.5" in said


def test_requests_are_answered_with_the_decoders_numbers():
    decoder = small_model(CONFIGS["llama"])
    check(
        harness._Requests(likelihoods_of(decoder).model, dtype="float32", progress=False), decoder
    )


def check(model, decoder):
    ask = lambda *args: [SimpleNamespace(args=args)]  # noqa: E731
    ((found, greedy),) = model.loglikelihood(ask("one two", " three"))
    exact = by_torch(decoder, list(b"one two"), list(b" three"))
    assert found == pytest.approx(exact[0], rel=2e-5) and greedy == exact[1]
    (found,) = model.loglikelihood_rolling(ask("a text"))
    assert found == pytest.approx(by_torch(decoder, [256], list(b"a text"))[0], rel=2e-5)
    said = list(b"one")
    with torch.no_grad():
        for _ in range(5):
            said.append(int(decoder(torch.tensor([said]))[0, -1].argmax()))
    (text,) = model.generate_until(ask("one", {"max_gen_toks": 5, "until": []}))
    ended = said[3 : said.index(256)] if 256 in said else said[3:]
    assert text == bytes(ended).decode(errors="replace")
