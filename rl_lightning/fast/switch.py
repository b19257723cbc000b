"""The switch that turns every trick of this room off, so that a doubt is settled in a minute; one of CUDA graphs."""

import os
from functools import cache

from rl_lightning.errors import require

VARIABLE = "RL_LIGHTNING_FAST"
OF_CUDA_GRAPHS = "RL_LIGHTNING_CUDA_GRAPHS"


@cache  # asked at every step
def is_on() -> bool:
    """Whether this process takes the fast ways; with RL_LIGHTNING_FAST=0 it takes the plain ones.

    Raises:
        UsageError: another value than 0 or 1.
    """
    value = os.environ.get(VARIABLE, "1")
    require(value in ("0", "1"), VARIABLE, value, "give 0 for the plain ways, or 1")
    return value == "1"


@cache
def has_cuda_graphs() -> bool:
    """Whether compiled gradients on a CUDA device run as CUDA graphs; only with RL_LIGHTNING_CUDA_GRAPHS=1.

    Raises:
        UsageError: another value than 0 or 1.
    """
    value = os.environ.get(OF_CUDA_GRAPHS, "0")
    require(value in ("0", "1"), OF_CUDA_GRAPHS, value, "give 1 for CUDA graphs, or 0")
    return value == "1"
