"""An OpenAI-compatible HTTP server on the generation engine; needs fusedlm[serve]."""

from .app import create_app
from .run import serve
from .settings import Settings

__all__ = ["Settings", "create_app", "serve"]
