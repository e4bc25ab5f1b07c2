"""What a training run leaves: state.json, training.json, optimizer.safetensors, the adapters' config."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

from fusedlm.evaluation.card import model_card
from fusedlm.models import add_lora
from fusedlm.models.lora import CONFIG as ADAPTER_CONFIG
from fusedlm.models.lora import load_lora
from fusedlm.optim import AdamW
from fusedlm.train import TrainConfig
from fusedlm.train.checkpoint import Progress, load_checkpoint, save_checkpoint

from ..case import Case, Target
from ..mutate import Mutation, damage_bytes, damage_json, damage_safetensors, mostly
from .models import Files, read_folder, small_decoder, small_tokenizer

_JSON = mostly(damage_json, damage_bytes, 0.88)


class _Batches:
    """As far as a checkpoint is concerned."""

    def state_dict(self) -> dict[str, object]:
        return {"drawn": 3, "seed": 0}


@cache
def _checkpoint() -> Files:
    model = add_lora(small_decoder(), rank=2)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad])
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = parameter.detach().clone()
    optimizer.step()
    for parameter in model.parameters():  # frozen ones have no state
        optimizer.state.setdefault(parameter, {})
    progress = Progress(3, {"val_loss": 1.5}, 2, 300)
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder) / "last"
        save_checkpoint(
            last, model, small_tokenizer(), optimizer, _Batches(), TrainConfig(), progress, "data"
        )
        return read_folder(last)


def _training() -> bytes:
    values = json.loads(_checkpoint()["training.json"])
    values |= {
        "data": {"tokens": 5, "fingerprint": "x"}, "command": "fusedlm train x.txt", "versions": {"torch": "2"},
        "cost": {"seconds": 1.0, "cpu_seconds": 2.0, "joules": None, "processes": 1},
    }  # fmt: skip
    return json.dumps(values).encode()


def _resume(path: Path) -> None:
    checkpoint = load_checkpoint(path.parent)
    model = checkpoint.model
    checkpoint.restore_optimizer(model, AdamW([p for p in model.parameters() if p.requires_grad]))


def _card(path: Path) -> None:
    model_card(path.parent, watts_per_core=5.0)


def _adapter(path: Path) -> None:
    load_lora(small_decoder(), path.parent)


def _cases() -> list[Case]:
    files = {**_checkpoint(), "training.json": _training()}
    adapter = {
        name.removeprefix("adapter/"): data
        for name, data in files.items()
        if name.startswith("adapter/")
    }

    def case(name: str, file: str, damage: Mutation, read, files: Files = files) -> Case:
        beside = {other: data for other, data in files.items() if other != file}
        return Case(name, file, files[file], damage, read, beside)

    return [
        case("state", "state.json", _JSON, _resume),
        case("training", "training.json", _JSON, _card),
        case("card-config", "config.json", _JSON, _card),
        case("optimizer", "optimizer.safetensors", damage_safetensors, _resume),
        case("adapter", ADAPTER_CONFIG, _JSON, _adapter, adapter),
    ]


TARGET = Target("checkpoint", _cases)
