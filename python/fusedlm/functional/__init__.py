"""Drop-in functions: the names, signatures and results of the originals, on fusedlm's kernels.

`group_norm`, `layer_norm`, `rms_norm`, `cross_entropy`, `linear_cross_entropy` and
`scaled_dot_product_attention` stand for those of `torch.nn.functional`; `flash_attn_*` for those of the
package flash-attn, which has none for the CPU. To use one, change the import:

    from fusedlm.functional import flash_attn_func  # was: from flash_attn import flash_attn_func
"""

from fusedlm.ops import cross_entropy, scaled_dot_product_attention

from .flash_attention import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)
from .kv_cache import flash_attn_with_kvcache
from .loss import linear_cross_entropy
from .norms import group_norm, layer_norm, rms_norm

__all__ = [
    "cross_entropy",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
    "group_norm",
    "layer_norm",
    "linear_cross_entropy",
    "rms_norm",
    "scaled_dot_product_attention",
]
