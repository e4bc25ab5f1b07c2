"""An OpenAI-compatible HTTP server on the generation engine; needs fusedlm[serve]."""

from .app import create_app
from .embeddings import load_embedder
from .run import serve
from .settings import Settings

__all__ = ["Settings", "create_app", "load_embedder", "serve"]
