"""What the endpoints work with, and what happens when the server starts and stops."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import fusedlm
from fusedlm.generate import LanguageModel

from .embeddings import Embedder
from .errors import ApiError
from .metrics import Metrics
from .settings import Settings
from .texts import Admission
from .worker import Worker


class Service:
    def __init__(self, model: LanguageModel, settings: Settings, embedder: Embedder | None) -> None:
        self.model, self.settings, self.embedder = model, settings, embedder
        self.worker = Worker(model)
        self.metrics = Metrics(lambda: self.worker.stats, model.name, fusedlm.__version__)
        self.admission = Admission(settings, self.metrics)
        self.embedding_lock = asyncio.Lock()
        self.started = int(time.time())

    def models(self) -> list[dict[str, Any]]:
        """Those that requests may name, with what is good to know of them."""
        shown = [
            {
                "id": self.model.name, "context": self.model.context,
                "chat": self.model.vocabulary.template is not None,
            }
        ]  # fmt: skip
        if self.embedder is not None:
            shown.append({"id": self.embedder.name, "embeddings": True})
        common = {"object": "model", "created": self.started, "owned_by": "fusedlm"}
        return [{**common, **model} for model in shown]

    def check_model(self, name: Any, wanted: str) -> None:
        """Refuses another model than `wanted`, which serves the endpoint; none means that one."""
        if name is not None and name != wanted:
            raise ApiError(
                404, f"The model {name!r} does not exist here; this endpoint has {wanted!r}",
                param="model", code="model_not_found",
            )  # fmt: skip

    def drain(self) -> None:
        """From here on requests are refused; those under way may end."""
        self.admission.draining = True
