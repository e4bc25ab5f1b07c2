"""fusedlm quickstart: a model of one's own in a few minutes."""

from __future__ import annotations

from pathlib import Path

import typer

from .options import (
    ConfigFile,
    License,
    Precision,
    Quiet,
    RunFolder,
    Seed,
    Steps,
    Threads,
    choose_precision,
    set_threads,
)

# Found by trying: the most the validation loss falls in about 4 minutes on 2 cores.
STEPS = 750
MODEL = {"layers": 4, "width": 256, "heads": 4, "context": 256, "tied": True, "dropout": 0.0}
PROMPT = "HAMLET\n"


def quickstart(
    out: RunFolder = Path("runs/quickstart"),
    steps: Steps = STEPS,
    seed: Seed = 0,
    precision: Precision = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    license: License = None,
    config: ConfigFile = None,
) -> None:
    """Train a small model on ten plays by Shakespeare and let it speak.

    Takes 3 to 5 minutes on 2 cores and needs no other file: the text ships with the package.

    \b
    Examples:
      fusedlm quickstart
      fusedlm quickstart --out runs/first --steps 200
    """
    from fusedlm.train import TrainConfig
    from fusedlm.train.run_folder import hold

    from .about import about
    from .run import Recipe, begin, carry_out

    set_threads(threads)
    recipe = Recipe(
        "shakespeare", out, vocab_size=1024, model=MODEL, progress=not quiet,
        about=about("shakespeare", license=license, data_license=None),
    )  # fmt: skip
    settings = TrainConfig(
        steps=steps, batch=16, lr=2e-3, warmup=min(50, max(1, steps // 10)), seed=seed,
        precision=choose_precision(precision), eval_every=max(1, min(150, steps)),
        save_every=max(1, min(300, steps)),
    )  # fmt: skip
    with hold(out):
        result = carry_out(begin(recipe, seed), settings, recipe, resume=False)
    if not result.interrupted:
        _sample(result.best_checkpoint, precision)
        typer.echo(
            "\nTry next:\n"
            f'  fusedlm generate {out} "ROMEO"\n'
            f"  fusedlm eval {out} shakespeare\n"
            "  fusedlm train my_text.txt --out runs/mine\n"
            f"  fusedlm train --resume --out {out} --steps {2 * steps}"
        )


def _sample(folder: Path, precision: str) -> None:
    from fusedlm.generate import generate_text

    from .options import load_model

    model, tokenizer = load_model(folder, precision)
    text = generate_text(
        model, tokenizer, PROMPT, max_new_tokens=160, temperature=0.8, top_p=0.95, seed=1
    )
    typer.echo(f"\n--- a sample, after {PROMPT.strip()!r} ---\n{PROMPT}{str(text).rstrip()}\n---")
