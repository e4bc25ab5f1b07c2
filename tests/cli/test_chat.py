"""fusedlm chat, generate and serve as a user starts them, with a tiny model of random weights."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from fusedlm.cli.chat import Conversation, _handler, _Interrupts
from tests.support.fake_engine import FakeGenerator, fake_language_model
from tests.support.tiny import save_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("cli") / "tiny")


def test_lines_of_stdin_are_answered_and_saved(run, folder, tmp_path):
    file = tmp_path / "chat.json"
    lines = f"the quick\n\nthe fox\n/save {file}\n"
    options = ("--seed", 1, "--max-new-tokens", 8, "--system", "be brief")
    code, out, err = run("chat", folder, *options, stdin=lines)
    assert code == 0, err
    messages = json.loads(file.read_text())
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert [m["role"] for m in messages] == roles
    assert messages[2]["content"] in out and messages[4]["content"] in out
    assert f"5 messages are in {file}" in out
    assert run("chat", folder, *options, stdin=lines)[1] == out


def test_commands_reset_show_and_end(run, folder):
    code, out, _ = run(
        "chat", folder, "--max-new-tokens", 4,
        stdin="/help\n/system\n/system be kind\n/system\n/reset\n/nonsense\n/quit\nnever read\n",
    )  # fmt: skip
    assert code == 0
    for expected in ("/save FILE", "no system prompt", "begins anew", "be kind", "is forgotten",
                     "/nonsense is no command"):  # fmt: skip
        assert expected in out


def conversation(generator: FakeGenerator, **options) -> Conversation:
    model = fake_language_model(lambda: generator, context=options.pop("context", 256))
    return Conversation(model, {"max_new_tokens": 5, **options}, None, 1)


def test_ctrl_c_stops_the_answer_and_keeps_what_came(capsys):
    steps = []

    def interrupt_at_the_third() -> None:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    talk = conversation(FakeGenerator(before_step=interrupt_at_the_third), max_new_tokens=50)
    interrupts = _Interrupts()
    with _handler(interrupts.note):
        talk.say("hi", lambda: interrupts.came)
    assert talk.messages[-1] == {"role": "assistant", "content": "abc"}
    assert "abc [stopped]" in capsys.readouterr().out
    talk.say("more")
    assert len(talk.messages) == 4 and talk.messages[-1]["content"].startswith("abcdef")


def test_a_full_context_forgets_the_oldest_messages(capsys):
    generator = FakeGenerator()
    talk = conversation(generator, context=64)
    for word in ("first", "second", "third", "fourth"):
        talk.say(word)
    assert "are forgotten" in capsys.readouterr().err
    prompt = bytes(generator.submitted[-1]["prompt"]).decode()
    assert "first" not in prompt and prompt.endswith("[user]fourth[assistant]")
    before = list(talk.messages)
    talk.say("x" * 100)  # more than any context: nothing is forgotten for it
    assert "error: " in capsys.readouterr().err and talk.messages == before


def test_generate_takes_a_schema_a_regex_and_guesses(run, folder, tmp_path):
    pytest.importorskip("llguidance")
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "array", "items": {"type": "boolean"}, "maxItems": 3}))
    common = ("--seed", 2, "--max-new-tokens", 40)
    code, out, err = run("generate", folder, "", "--schema", schema, *common)
    assert code == 0, err
    assert all(isinstance(item, bool) for item in json.loads(out))
    assert run("generate", folder, "", "--regex", "a{3}b", *common)[1].strip() == "aaab"
    plain = run("generate", folder, "the quick the quick", *common)
    assert run("generate", folder, "the quick the quick", "--guess-tokens", 4, *common) == plain
    assert "regex does not fit" in run("generate", folder, "", "--regex", "(", *common)[2]


def test_mistakes_are_one_clear_line(run, folder, tmp_path):
    plain = save_tiny_model(tmp_path / "plain", chat=False)
    code, _, err = run("chat", plain)
    assert code == 1 and err.strip().startswith("error: chat: plain has no chat template")
    assert "does not exist" in run("serve", tmp_path / "nowhere")[2]
    assert "format" in run("generate", folder, "x", "--format", "q9")[2]


def test_serve_says_where_it_is_and_ends_on_sigterm(folder):
    pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", "fusedlm.cli", "serve", str(folder), "--port", "0",
               "--name", "mine", "--threads", "1"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        try:
            line = p.stdout.readline()
            assert line.startswith("mine at http://127.0.0.1:"), p.stderr.read()
            address = line.split(" ")[2]
            with urllib.request.urlopen(f"{address}/health", timeout=30) as response:
                assert json.load(response)["status"] == "ok"
            p.send_signal(signal.SIGTERM)
            out, err = p.communicate(timeout=30)
        finally:
            p.kill()
    assert p.returncode == 0 and out.strip() == "stopped" and err == ""


def test_serve_warns_where_everybody_may_use_it(caplog, monkeypatch):
    pytest.importorskip("uvicorn")
    from fusedlm.serve import Settings, run

    # Nothing listens: only what is said before counts.
    monkeypatch.setattr(run.Server, "run", lambda self, sockets: None)
    monkeypatch.setattr(run, "socket_of", lambda settings: contextlib.nullcontext())
    run.serve(fake_language_model(), Settings(host="0.0.0.0"))
    assert "there is no API key" in caplog.text
    caplog.clear()
    run.serve(fake_language_model(), Settings(host="0.0.0.0", api_key="secret"))
    run.serve(fake_language_model(), Settings())
    assert caplog.text == ""
