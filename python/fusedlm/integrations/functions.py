"""torch functions that a model calls itself, without a layer of torch around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from fusedlm import ops


class FusedFunctions(TorchFunctionMode):
    """Within it F.scaled_dot_product_attention is `ops.scaled_dot_product_attention`."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            return ops.scaled_dot_product_attention(*args, **kwargs)
        return function(*args, **kwargs)
