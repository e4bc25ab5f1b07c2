"""fusedlm card: the model card of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import ConfigFile, model_folder


def card(
    model: Annotated[Path, typer.Argument(help="A model folder or a training run.")],
    license: Annotated[
        str | None,
        typer.Option(
            "--license", help="Of the model: mit, cc-by-4.0, ...", show_default="not given"
        ),
    ] = None,
    data_license: Annotated[
        str | None, typer.Option(help="Of the data.", show_default="not given")
    ] = None,
    watts_per_core: Annotated[
        float | None,
        typer.Option(
            help="Estimate the energy from CPU time, where it was not measured.",
            show_default="no estimate",
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Write the model card (README.md) of a trained model again, with what only you know.

    Training writes one beside every model: data, settings, metrics, time and energy, command, versions.
    A run remembers what is given, also when it goes on.

    \b
    Examples:
      fusedlm card runs/mine --license mit --data-license cc0-1.0
      fusedlm card runs/mine --watts-per-core 8
    """
    from fusedlm.evaluation.card import remember, write_card

    given = {"license": license, "data_license": data_license, "watts_per_core": watts_per_core}
    written = write_card(model_folder(model), **given)
    remember(model_folder(model), **given)
    typer.echo(written)
