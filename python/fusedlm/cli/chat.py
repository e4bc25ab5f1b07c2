"""fusedlm chat: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    CacheTokens,
    ConfigFile,
    Format,
    GuessTokens,
    MinP,
    Precision,
    RepetitionPenalty,
    Temperature,
    Threads,
    TopK,
    TopP,
    load_language_model,
    set_threads,
)  # fmt: skip

HELP = """\
/help          this list
/system TEXT   set the system prompt and start anew; without TEXT show it
/reset         forget the conversation
/save FILE     write the conversation to FILE as JSON
/quit          end (as does Ctrl-D); Ctrl-C stops an answer"""


def chat(
    model: Annotated[
        Path, typer.Argument(help="A model folder or .gguf file that has a chat template.")
    ],
    system: Annotated[
        str | None, typer.Option(help="System prompt.", show_default="the model's own")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 1024,
    temperature: Temperature = 0.7,
    top_k: TopK = None,
    top_p: TopP = 0.95,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="For the same answers again.", show_default="random")
    ] = None,
    guess_tokens: GuessTokens = 0,
    cache_tokens: CacheTokens = None,
    format: Format = None,
    precision: Precision = "auto",
    threads: Threads = None,
    config: ConfigFile = None,
) -> None:
    """Talk to a model. /help lists the commands; Ctrl-C stops an answer and keeps the chat.

    Without a terminal, each line of stdin is a message: `echo "What is 2+2?" | fusedlm chat MODEL`.

    \b
    Examples:
      fusedlm chat SmolLM2-135M-Instruct.Q4_1.gguf
      fusedlm chat models/qwen --system "Answer in one sentence." --temperature 0
    """
    set_threads(threads)
    loaded = load_language_model(
        model, precision, format, cache_tokens=cache_tokens, most_running=1
    )
    options = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k,
        "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty,
        "guess_tokens": guess_tokens,
    }  # fmt: skip
    conversation = Conversation(loaded, options, system, seed)
    terminal = sys.stdin.isatty()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() arrow keys and a history
        typer.echo(f"{loaded.name}, {loaded.context:,} tokens of context. /help lists commands.")
    interrupts = _Interrupts()
    with _handler(interrupts.note):  # one that comes before an answer has begun stops it
        for line in _lines(terminal):
            if line.startswith("/"):
                if not conversation.command(line):
                    return
            elif line:
                conversation.say(line, lambda: interrupts.came)
            interrupts.came = False


class Conversation:
    """Messages so far, and how the model answers them."""

    def __init__(
        self, model: Any, options: dict[str, Any], system: str | None, seed: int | None
    ) -> None:
        self._model, self._options, self._seed = model, options, seed
        self._system = system
        self.messages: list[dict[str, str]] = []
        self._reset()
        model.encode_chat([*self.messages, {"role": "user", "content": ""}])  # fails early

    def say(self, text: str, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Prints the answer as it comes. What was said before a Ctrl-C stays."""
        self.messages.append({"role": "user", "content": text})
        try:
            self._fit()
        except ValueError as error:
            self.messages.pop()
            typer.echo(f"error: {error}", err=True)
            return
        seed = None if self._seed is None else self._seed + len(self.messages)
        answer = ""
        pieces = self._model.stream_chat(self.messages, seed=seed, **self._options)
        with contextlib.closing(pieces):
            for piece in pieces:
                answer += piece
                typer.echo(piece, nl=False)
                if interrupted():
                    typer.echo(" [stopped]", nl=False)
                    break
        typer.echo()
        self.messages.append({"role": "assistant", "content": answer})

    def command(self, line: str) -> bool:
        """Carries out a command; False ends the chat."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name in ("/quit", "/exit"):
            return False
        if name == "/reset":
            self._reset()
            typer.echo("The conversation is forgotten.")
        elif name == "/system" and rest:
            self._system = rest
            self._reset()
            typer.echo("The system prompt is set; the conversation begins anew.")
        elif name == "/system":
            typer.echo(self._system or "There is no system prompt but the model's own.")
        elif name == "/save":
            self._save(rest)
        else:
            typer.echo(HELP if name == "/help" else f"{name} is no command.\n{HELP}")
        return True

    def _reset(self) -> None:
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        self.messages = list(system)

    def _save(self, name: str) -> None:
        from fusedlm.models.files import write_json

        if not name:
            typer.echo("error: /save needs the name of a file", err=True)
            return
        try:
            write_json(Path(name).expanduser(), self.messages)
        except OSError as error:
            typer.echo(f"error: {error}", err=True)
        else:
            typer.echo(f"{len(self.messages)} messages are in {name}.")

    def _fit(self) -> None:
        """Forgets the oldest questions and answers while there is no room for an answer.

        Raises ValueError where the latest question alone is too long; then nothing is forgotten.
        """
        room = min(self._options["max_new_tokens"], self._model.context // 4)
        first = 0 if self._system is None else 1
        kept, forgotten = list(self.messages), 0
        while True:
            latest = len(kept) <= first + 2  # the question alone
            try:
                if latest or len(self._model.encode_chat(kept)) + room <= self._model.context:
                    self._model.encode_chat(kept)
                    break
            except ValueError:
                if latest:
                    raise
            del kept[first : first + 2]
            forgotten += 2
        if forgotten:
            self.messages = kept
            typer.echo(f"(the context is full: {forgotten} old messages are forgotten)", err=True)


def _lines(terminal: bool) -> Iterator[str]:
    """What is typed, or sent: Ctrl-C clears a line that is being typed, and ends what has no terminal."""
    while True:
        try:
            with _handler(signal.default_int_handler):
                line = input("> ") if terminal else next(sys.stdin)
        except (EOFError, StopIteration):
            if terminal:
                typer.echo()
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            typer.echo("\n(/quit or Ctrl-D ends the chat)")
        else:
            yield line.strip()


class _Interrupts:
    """Ctrl-C sets a flag here, so that it never strikes in the middle of a step."""

    came = False  # no lock: a handler may run inside whatever reads this

    def note(self, *_: object) -> None:
        self.came = True


@contextlib.contextmanager
def _handler(handler: Callable[..., object]) -> Iterator[None]:
    """Of SIGINT while the block runs, in the main thread."""
    try:
        before = signal.signal(signal.SIGINT, handler)
    except ValueError:  # another thread, where no signals come
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
