"""/v1/embeddings: vectors of texts from an encoder."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .endpoint import endpoint, read_json
from .errors import ApiError, invalid
from .requests import Fields

if TYPE_CHECKING:
    from fusedlm.data.tokenizer import Tokenizer
    from fusedlm.models import Encoder

    from .service import Service

_MOST_TEXTS = 2048


def load_embedder(path: Path) -> Embedder:
    """An encoder's folder or .gguf file, as `fusedlm.models.load` reads it."""
    from fusedlm.models import Encoder, load

    model, tokenizer = load(path)
    if not isinstance(model, Encoder) or tokenizer is None:
        what = "a decoder" if not isinstance(model, Encoder) else "no tokenizer"
        raise ValueError(f"{path} holds {what}, expected an encoder with its tokenizer")
    name = path.absolute().name if path.is_dir() else path.stem
    return _EncoderEmbedder(name, model, tokenizer)


class _EncoderEmbedder:
    def __init__(self, name: str, model: Encoder, tokenizer: Tokenizer) -> None:
        import torch

        self.name = name
        self._model, self._tokenizer = model, tokenizer
        self._threads = torch.get_num_threads()

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        import torch

        from fusedlm.models import embed

        torch.set_num_threads(self._threads)  # OpenMP's number of threads is each thread's own
        longest = min(self._model.config.max_tokens, self._model.config.context)
        rows = self._tokenizer.encode_batch(texts, add_special=True, longest=longest)
        vectors = embed(self._model, self._tokenizer, texts)
        return vectors.tolist(), sum(map(len, rows))


class Embedder(Protocol):
    """Texts to vectors of length 1."""

    name: str

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """A vector a text, and the tokens of all. Raises ValueError for a text it cannot take."""
        ...


@endpoint("embeddings")
async def embeddings(service: Service, request: Request) -> Response:
    if service.embedder is None:
        raise ApiError(501, "This server has no model for embeddings (--embedding-model)")
    body = await read_json(request, service.settings.max_body)
    service.check_model(body.get("model"), service.embedder.name)
    texts, packed = _read(body)
    with service.admission.enter(1):
        try:
            async with request.state.deadline.limit():
                vectors, tokens = await _embed(service, service.embedder, texts)
        except ValueError as error:
            raise invalid(str(error), "input") from error
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(v) if packed else v}
        for index, v in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse(
        {"object": "list", "data": data, "model": service.embedder.name, "usage": usage}
    )


async def _embed(
    service: Service, embedder: Embedder, texts: list[str]
) -> tuple[list[list[float]], int]:
    """One call at a time, since each uses all threads as it is.

    A thread cannot be stopped: where nobody waits for it any more, the next call still waits for its end.
    """
    await service.embedding_lock.acquire()
    work = asyncio.ensure_future(asyncio.to_thread(embedder.embed, texts))

    def done(work: asyncio.Future[Any]) -> None:
        service.embedding_lock.release()
        work.cancelled() or work.exception()  # seen, also where nobody waits for it

    work.add_done_callback(done)
    return await asyncio.shield(work)


def _read(body: dict[str, Any]) -> tuple[list[str], bool]:
    """The texts, and whether vectors are wanted as base64."""
    fields = Fields(body)
    fields.take("model", str)
    texts = fields.take("input", (str, list))
    texts = [texts] if isinstance(texts, str) else texts
    if not texts or len(texts) > _MOST_TEXTS or not all(isinstance(t, str) for t in texts):
        raise invalid(f"input is not 1 to {_MOST_TEXTS} texts", "input")
    if not all(texts):
        raise invalid("input holds an empty text", "input")
    form = fields.take("encoding_format", str, "float")
    if form not in ("float", "base64"):
        raise invalid(f"encoding_format is {form!r}, expected float or base64", "encoding_format")
    fields.finish()
    return texts, form == "base64"


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
