"""fusedlm serve: an OpenAI-compatible server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from .options import (  # fmt: skip
    CacheTokens,
    ConfigFile,
    Format,
    ModelFile,
    Precision,
    Threads,
    load_language_model,
    set_threads,
)


def serve(
    model: ModelFile,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is reachable from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="FUSEDLM_API_KEY", help="Clients must send it. Others see a command line: "
            "prefer the environment.", show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model.", show_default="its file's")
    ] = None,
    embedding_model: Annotated[
        Path | None, typer.Option(help="A folder or .gguf file with an encoder, for /v1/embeddings.")
    ] = None,
    max_running: Annotated[int, typer.Option(min=1, help="Texts made at the same time.")] = 16,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Texts that may wait; more are answered 429.")
    ] = 64,
    max_connections: Annotated[
        int | None,
        typer.Option(
            min=1, help="Open connections; more are answered 503.",
            show_default="100 more than texts that run and wait",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most of one text.", show_default="the context")
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, help="Seconds for one request: its upload, waiting, and reading its answer."
        ),
    ] = 300.0,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for requests to end when stopped.")
    ] = 30.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Host name that a proxy in front sends; on loopback others are refused."),
    ] = None,
    cache_tokens: CacheTokens = None,
    format: Format = None,
    precision: Precision = "auto",
    threads: Threads = None,
    config: ConfigFile = None,
) -> None:  # fmt: skip
    """Serve a model over HTTP, as OpenAI's API: completions, chat, embeddings; a chat page at /.

    Ctrl-C or SIGTERM stops it: requests under way may end (--grace).

    \b
    Examples:
      fusedlm serve SmolLM2-135M-Instruct.Q4_1.gguf
      fusedlm serve runs/mine --port 9000 --max-running 4
      FUSEDLM_API_KEY=... fusedlm serve models/qwen --host 0.0.0.0 --embedding-model models/minilm
    """
    try:
        from fusedlm import serve as server
    except ImportError as error:
        raise NotImplementedError(
            f"fusedlm serve needs more packages ({error.name}): pip install 'fusedlm[serve]'"
        ) from error

    set_threads(threads)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    settings = server.Settings(
        host=host, port=port, api_key=api_key, max_running=max_running, max_waiting=max_waiting,
        max_connections=max_connections, max_new_tokens=max_new_tokens, timeout=timeout,
        grace=grace, hosts=tuple(allow_host or ()),
    )  # fmt: skip
    loaded = load_language_model(
        model, precision, format, cache_tokens=cache_tokens, most_running=max_running
    )
    loaded.name = name or loaded.name
    embedder = None if embedding_model is None else server.load_embedder(embedding_model)

    def started(address: str) -> None:
        typer.echo(f"{loaded.name} at {address} (API: {address}/v1). Ctrl-C stops it.")

    server.serve(loaded, settings, embedder, on_start=started)
    typer.echo("stopped")
