"""The commands as a user types them."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fusedlm

TINY = (
    "--layers 1 --width 32 --heads 2 --context 32 --tokenizer chars --batch 4 --steps 6"
    " --eval-every 3 --save-every 3 --warmup 2 --precision float32 --quiet"
).split()
TEXT = "the quick brown fox jumps over the lazy dog\n" * 100


@pytest.fixture
def text(tmp_path) -> Path:
    (tmp_path / "fox.txt").write_text(TEXT)
    return tmp_path / "fox.txt"


@pytest.fixture
def trained(run, text, tmp_path) -> Path:
    code, _, err = run("train", text, "--out", tmp_path / "run", *TINY)
    assert code == 0, err
    return tmp_path / "run"


def weights(run_folder: Path) -> bytes:
    return (run_folder / "last" / "model.safetensors").read_bytes()


def test_quickstart_trains_shows_a_sample_and_says_what_comes_next(run, tmp_path):
    out = tmp_path / "quick"
    code, stdout, err = run("quickstart", "--out", out, "--steps", 2, "--quiet")
    assert code == 0, err
    for expected in ("bigram", "a sample", "loss curve", "last checkpoint", "Try next"):
        assert expected in stdout
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = run("quickstart", "--out", out)
    assert code == 1 and "holds a training run already" in err and "--resume" in err


def test_train_then_resume_equals_one_run(run, text, trained, tmp_path):
    long = [*TINY[: TINY.index("--steps")], "--steps", 6, *TINY[TINY.index("--steps") + 2 :]]
    assert run("train", text, "--out", tmp_path / "again", *long)[0] == 0
    assert weights(trained) == weights(tmp_path / "again")
    code, stdout, _ = run("train", "--resume", "--out", trained, "--steps", 8, "--quiet")
    assert code == 0 and "8 steps" in stdout
    steps = [json.loads(line)["step"] for line in (trained / "metrics.jsonl").open()]
    assert max(steps) == 8


def test_generate_is_the_same_for_a_seed(run, trained):
    a = run("generate", trained, "the ", "--seed", 3, "--max-new-tokens", 20)
    b = run("generate", trained, "the ", "--seed", 3, "--max-new-tokens", 20)
    assert a == b and a[0] == 0 and a[1].startswith("the ") and len(a[1]) > 10
    several = run("generate", trained / "best", "the ", "--count", 2, "--max-new-tokens", 5)
    assert several[0] == 0 and "--- 2 ---" in several[1]


def test_eval_prints_loss_perplexity_and_bits(run, text, trained):
    code, stdout, _ = run("eval", trained, text, "--json")
    values = json.loads(stdout)
    assert code == 0 and values["bytes"] == len(TEXT) - 1 and 0 < values["loss"] < 5
    assert "perplexity" in run("eval", trained, text, "--validation", 0.1)[1]


def test_eval_draws_the_loss_by_the_tokens_before(run, text, trained, tmp_path):
    plot, out = tmp_path / "deep" / "loss.png", tmp_path / "loss.json"
    code, _, err = run("eval", trained, text, "--plot", plot, "--out", out, "--quiet")
    assert code == 0 and plot.read_bytes().startswith(b"\x89PNG"), err
    found = json.loads(out.read_text())
    assert sum(part["tokens"] for part in found["by_position"]) == found["tokens"]


def test_info_names_version_and_instruction_set(run):
    values = json.loads(run("info", "--json")[1])
    assert (
        values["isa"] in values["isas_available"]
        and values["cuda_compiled"] == fusedlm.cuda_compiled()
    )
    assert "instruction set in use" in run("info")[1]


@pytest.mark.parametrize("option", ["--version", "--cmake-dir", "--include-dir", "--pkgconfig-dir"])
def test_what_build_scripts_ask_for_is_one_line_without_loading_torch(option):
    program = (
        "import sys; from fusedlm.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, option], capture_output=True, text=True, check=False
    )
    if "was not installed by pip" in done.stderr:
        pytest.skip(done.stderr.splitlines()[0])
    assert done.returncode == 0 and done.stderr == "False False\n"
    (line,) = done.stdout.splitlines()
    assert line == fusedlm.__version__ if option == "--version" else Path(line).is_dir()


@pytest.mark.parametrize(
    "command",
    [
        [],
        *([name] for name in ("quickstart", "train", "generate", "chat", "serve", "eval", "info")),
    ],
)
def test_every_command_has_help_with_examples(run, command):
    code, stdout, _ = run(*command, "--help")
    assert code == 0 and "Usage" in stdout
    assert not command or "Examples:" in stdout


@pytest.mark.parametrize("kind", ["yaml", "toml"])
def test_options_come_from_a_file_and_the_command_line_wins(run, text, tmp_path, kind):
    values = {"layers": 1, "width": 32, "heads": 2, "context": 32, "steps": 2, "batch": 2,
              "tokenizer": "chars", "warmup": 1, "quiet": True, "eval-every": 2}  # fmt: skip
    lines = {
        "yaml": [f"{k}: {json.dumps(v)}" for k, v in values.items()],
        "toml": [f"{k} = {json.dumps(v)}" for k, v in values.items()],
    }[kind]
    (tmp_path / f"settings.{kind}").write_text("\n".join(lines))
    code, stdout, err = run(
        "train",
        text,
        "--config",
        tmp_path / f"settings.{kind}",
        "--out",
        tmp_path / "r",
        "--steps",
        3,
    )
    assert code == 0, err
    assert "1 layers, width 32" in stdout and "3 steps of 2 x 32" in stdout


def test_mistakes_are_one_clear_line(run, text, trained, tmp_path):
    def error(*arguments) -> str:
        code, _, err = run(*arguments)
        assert code != 0 and "Traceback" not in err
        return err

    assert "neither a file or folder" in error(
        "train", tmp_path / "no.txt", "--out", tmp_path / "x"
    )
    assert "text is missing" in error("train", "--out", tmp_path / "x")
    (tmp_path / "empty.txt").write_text("")
    assert "holds no text" in error("train", tmp_path / "empty.txt", "--out", tmp_path / "x")
    assert "style is 'bert'" in error("train", text, "--style", "bert", "--out", tmp_path / "x")
    assert "divisor of width" in error("train", text, "--heads", 5, "--out", tmp_path / "x")
    assert "--lr cannot be given with --resume" in error(
        "train", "--resume", "--out", trained, "--lr", 1
    )
    assert "holds no training run" in error("train", "--resume", "--out", tmp_path / "x")
    (trained / "run.json").write_text('{"source": {}}')
    assert "run.json: not what `fusedlm train` writes" in error(
        "train", "--resume", "--out", trained
    )
    assert "does not exist" in error("generate", tmp_path / "nowhere", "x")
    assert "temperature" in error("generate", trained, "x", "--temperature", -1)
    assert "top_p" in error("generate", trained, "x", "--top-p", 2)
    (tmp_path / "bad.yaml").write_text("colour: blue")
    assert "unknown option 'colour'" in error("train", text, "--config", tmp_path / "bad.yaml")
    (trained / "best" / "model.safetensors").write_bytes(b"damaged")
    assert "model.safetensors" in error("generate", trained, "x")
    assert not (tmp_path / "x" / "last").exists()


def test_ctrl_c_saves_and_resume_goes_on(text, tmp_path):
    long = [*TINY[: TINY.index("--steps")], "--steps", "100000"]
    command = [
        sys.executable,
        "-m",
        "fusedlm.cli",
        "train",
        str(text),
        "--out",
        str(tmp_path / "r"),
        *long,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "r" / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and len(metrics.read_text().splitlines()) > 5:
            break
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 0, stderr
    assert "stopped and saved at step" in stdout
    saved = json.loads((tmp_path / "r" / "last" / "state.json").read_text())["step"]
    assert saved == max(json.loads(line)["step"] for line in metrics.open())


def test_export_writes_what_loads_as_the_same_model(run, trained, tmp_path):
    import torch

    from fusedlm.models import Encoder, EncoderConfig, load, save

    code, stdout, err = run("export", trained, tmp_path / "out")
    assert code == 0, err
    assert "AutoModelForCausalLM" in stdout
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    (ours, words), (again, same) = load(trained / "best"), load(tmp_path / "out")
    ids = torch.tensor([words.encode("the fox")])
    assert torch.equal(again(ids), ours(ids)) and same.encode("the fox") == words.encode("the fox")
    config = EncoderConfig(
        words.vocab_size, context=8, layers=1, width=8, heads=2, task="sequence", labels=["n", "y"]
    )
    save(tmp_path / "encoder", Encoder(config), words)
    code, stdout, err = run("export", tmp_path / "encoder", tmp_path / "bert")
    assert code == 0 and "transformers.AutoModelForSequenceClassification." in stdout, err
    code, _, err = run("export", trained, tmp_path / "other", "--dtype", "int8")
    assert code == 1 and "dtype is 'int8', expected one of float32" in err


def test_embed_gives_a_vector_a_line(run, trained, text, tmp_path):
    import numpy as np
    import torch

    from fusedlm.data import Tokenizer
    from fusedlm.models import Encoder, EncoderConfig, save

    words = Tokenizer.load(trained / "best" / "tokenizer.json")
    torch.manual_seed(0)
    config = EncoderConfig(words.vocab_size, context=48, layers=1, width=8, heads=2)
    save(tmp_path / "encoder", Encoder(config), words)
    (tmp_path / "lines.txt").write_text("the fox\nthe dog\nthe fox\n")
    code, stdout, err = run("embed", tmp_path / "encoder", tmp_path / "lines.txt")
    assert code == 0, err
    vectors = [json.loads(line) for line in stdout.splitlines()]
    assert len(vectors) == 3 and vectors[0] == vectors[2] != vectors[1]
    out = tmp_path / "vectors.npy"
    code, stdout, err = run("embed", tmp_path / "encoder", tmp_path / "lines.txt", "--out", out)
    assert code == 0 and "3 vectors of 8" in stdout, err
    np.testing.assert_allclose(np.load(out), vectors, atol=2e-6)
    code, stdout, _ = run("embed", tmp_path / "encoder", "-", stdin="the\u2028fox\nthe dog")
    assert code == 0 and len(stdout.splitlines()) == 2
    code, stdout, err = run("embed", tmp_path / "encoder", "-", stdin=b"the fox\nthe \xff\n\nthe")
    shown = [json.loads(line) for line in stdout.splitlines()]
    assert code == 0 and [v and len(v) for v in shown] == [8, None, None, 8]
    assert err.splitlines() == [
        "1 without a vector: not UTF-8 (the first: stdin:2)",
        "1 without a vector: the text has no tokens (the first: stdin:3)",
    ]
    (tmp_path / "some.txt").write_text("the fox\n\n")
    assert run("embed", tmp_path / "encoder", tmp_path / "some.txt", "--out", out)[0] == 0
    vectors = np.load(out)
    assert np.isfinite(vectors[0]).all() and np.isnan(vectors[1]).all()
    code, _, err = run("embed", tmp_path / "encoder", "-", stdin="\n")
    assert code == 1 and "stdin holds no text to embed" in err
    assert "1 left out: the text has no tokens (the first: stdin:1)" in err
    code, _, err = run("embed", trained, tmp_path / "lines.txt")
    assert code == 1 and "holds a decoder (see `fusedlm generate`), expected an encoder" in err
    code, _, err = run("generate", tmp_path / "encoder", "x")
    assert code == 1 and "holds an encoder" in err


def test_ctrl_c_while_a_library_loads_ends_as_any_other(monkeypatch, capsys):
    command_line = importlib.import_module("fusedlm.cli.app")

    def interrupted() -> None:
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr(command_line, "app", interrupted)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_import_that_fails_is_not_taken_for_ctrl_c(monkeypatch):
    command_line = importlib.import_module("fusedlm.cli.app")

    def failing() -> None:
        raise ImportError("initialization failed") from OSError("no such file")

    monkeypatch.setattr(command_line, "app", failing)
    monkeypatch.setenv("FUSEDLM_TRACEBACK", "1")
    with pytest.raises(ImportError, match="initialization failed"):
        command_line.main()
