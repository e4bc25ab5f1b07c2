"""A walk as one page: style, script and numbers are inside, and nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import json
import os
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from fusedlm.models.files import write_text

from .sentence import Walk
from .text import View


def write_page(walk: Walk, path: str | os.PathLike[str], view: View | None = None) -> Path:
    """Writes the page, whole or not at all. It opens with the token, layer and head of `view`."""
    view = (view or View()).of(walk)
    data = {
        **walk.data,
        **{
            name: {"weights": _packed(maps.weights), "scores": _packed(maps.scores)}
            for name, maps in walk.maps.items()
        },
        "view": {
            "layer": view.layers[0],
            "head": view.heads[0],
            "position": view.position,
            "source": walk.data["source"]["position"] if "source" in walk.data else None,
        },
    }
    # "<" cannot end the script that it stands in, nor begin anything else.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    script = _read("page_maps.js") + _read("page.js")
    page = _read("page.html").replace("@SCRIPT@", script).replace("@DATA@", text)
    write_text(path, page)
    return Path(path)


def _packed(maps: Tensor) -> str:
    """float32, little-endian, in base64."""
    array = maps.to(torch.float32).contiguous().numpy().astype("<f4", copy=False)
    return base64.b64encode(array.tobytes()).decode("ascii")


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
