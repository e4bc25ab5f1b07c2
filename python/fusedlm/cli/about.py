"""What the model card says of a run and training does not know: names, licences, settings of the command.

run.json keeps it under "about", so that every card of the run says it, also after resuming.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Of data that is known by name. The package of imdb has a licence, the reviews in it have none.
_DATA_LICENSES = {"shakespeare": "public domain", "chatterbot": "bsd-3-clause"}
_BASE_MODELS = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}


def about(
    data: str | Path | Sequence[Path], *, base: str | Path | None = None, license: str | None,
    data_license: str | None, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """What `remember` keeps beside a run's values. Settings that are None are left out.

    Where no data_license is given, it is that of known data. `base` is a model as `--from` names it; of
    paths the last part is kept alone, as the rest is nobody's business.
    """
    paths = [data] if isinstance(data, (str, Path)) else list(data)
    names = [_name(path) for path in paths]
    said = {
        "data": ", ".join(names),
        "license": license,
        "data_license": data_license or _known_license(paths),
        "settings": {name: value for name, value in settings.items() if value is not None},
    }
    if base is not None:
        said |= _base(str(base))
    return said


def _known_license(paths: Sequence[str | Path]) -> str | None:
    # A file or folder of that name comes first.
    known = [None if Path(p).exists() else _DATA_LICENSES.get(str(p)) for p in paths]
    return known[0] if len(known) == 1 else None


def _base(base: str) -> dict[str, Any]:
    from fusedlm.evaluation.card import license_of

    from .classify.model import base_folder

    folder = base_folder(base)
    name = _name(base) if Path(base).exists() else _BASE_MODELS.get(base, base)
    return {"base_model": name, "base_license": license_of(folder)}


def _name(path: str | Path) -> str:
    """The last part of a path; of the model of a training run, the run's."""
    whole = Path(os.path.abspath(path))
    return whole.parent.name if whole.name in ("best", "last") else whole.name
