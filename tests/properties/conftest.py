"""How many examples: few in each run, always the same; FUSEDLM_EXAMPLES=2000 looks further."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fusedlm",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=int(os.environ.get("FUSEDLM_EXAMPLES", "150")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("fusedlm")
