"""Our models in EleutherAI's lm-evaluation-harness: `FusedLM` is one of its language models.

    import lm_eval
    from fusedlm.evaluation.harness import FusedLM

    lm_eval.simple_evaluate(model=FusedLM("runs/mine/best"), tasks=["..."])

The module loads without the harness; `FusedLM` is made on first use and needs it (pip install lm_eval). It is
known to the harness as "fusedlm" from then on. The harness's own program looks for no models of others, so
`python -m fusedlm.evaluation.harness` is that program with this one added.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any

from tqdm import tqdm

from fusedlm.generate import LanguageModel

from .likelihood import Likelihoods


class _Requests:
    """What the harness asks of a language model. Requests have their arguments in `args`.

    batch_size, max_batch_size and device are what it passes to any model, "cuda:0" by default. They change
    nothing: the engine batches by itself, on the CPU.
    """

    def __init__(
        self, model: LanguageModel | str | os.PathLike[str], *, dtype: str = "bfloat16",
        max_new_tokens: int = 256, progress: bool = True, batch_size: Any = None,
        max_batch_size: Any = None, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(model, LanguageModel):
            model = LanguageModel.load(model, dtype=dtype)
        self.model = model
        self.likelihoods = Likelihoods(model, dtype)
        self._max_new_tokens, self._progress = max_new_tokens, progress

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        pairs = (self.likelihoods.encode_pair(*request.args) for request in requests)
        scores = self._bar(self.likelihoods.pairs(pairs), requests, "loglikelihood")
        return [(score.log_likelihood, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        return [
            self.likelihoods.text([self.model.encode("")[0], *self._tokens(*request.args)])
            for request in self._bar(iter(requests), requests, "loglikelihood_rolling")
        ]

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [
            self._generate(*request.args)
            for request in self._bar(iter(requests), requests, "generate_until")
        ]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        count = int(options.get("max_gen_toks", self._max_new_tokens))
        sampling = {k: options[k] for k in ("temperature", "top_k", "top_p") if k in options}
        if not options.get("do_sample", sampling.get("temperature", 0) > 0):
            sampling = {"temperature": 0.0}
        room = self.model.context - count
        if room < 1:
            raise ValueError(
                f"generate_until: max_gen_toks is {count}, expected less than the model's context of"
                f" {self.model.context}"
            )
        ids = [*self.likelihoods.beginning(), *self._tokens(context)] or self.model.encode("")
        given = self.model.generate(
            ids[-room:], max_new_tokens=count, stop=until, seed=0, **sampling
        )
        assert not isinstance(given, list)  # one prompt, one answer
        return given.text

    def _tokens(self, text: str) -> list[int]:
        return self.model.vocabulary.tokenizer.encode(text)

    def _bar(self, values: Iterator[Any], requests: list[Any], what: str) -> Iterator[Any]:
        return iter(tqdm(values, total=len(requests), desc=what, disable=not self._progress))


@cache
def _fused_lm() -> type:
    try:
        import lm_eval.models  # noqa: F401  (it registers its own only while there are none)
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError as error:
        raise ImportError(
            "FusedLM needs lm-evaluation-harness: pip install lm_eval (or use `fusedlm choices`)"
        ) from error
    made = type("FusedLM", (_Requests, LM), {"__doc__": _Requests.__doc__, "__module__": __name__})
    register_model("fusedlm")(made)
    return made


def __getattr__(name: str) -> Any:
    if name == "FusedLM":
        return _fused_lm()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """The harness's command line, which knows the model "fusedlm"."""
    _fused_lm()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
