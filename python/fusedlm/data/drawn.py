"""An order that a seed fixes and a number resumes: what all sources of batches have in common."""

from __future__ import annotations

from typing import ClassVar

import numpy as np


class Drawn:
    """`drawn` counts what was handed out; with `seed` and the settings named in `fixed` that is all there is
    to know of where a source stands."""

    fixed: ClassVar[tuple[str, ...]]
    seed: int
    drawn = 0

    def lots(self, *numbers: int) -> np.random.Generator:
        """Random numbers that belong to the seed and `numbers`, an epoch say."""
        return np.random.Generator(np.random.PCG64([self.seed, *numbers]))

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn, **{name: getattr(self, name) for name in self.fixed}}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where the state was taken. Raises ValueError if it is of other settings."""
        for name in self.fixed:
            if state.get(name) != getattr(self, name):
                raise ValueError(
                    f"{type(self).__name__}: the state has {name} {state.get(name)}, expected"
                    f" {getattr(self, name)}"
                )
        self.drawn = int(state["drawn"])
