"""What values settings may have, by name: a setting has the same range in every learner."""

import math
from collections.abc import Callable
from typing import Any, get_args

from rl_lightning.errors import require
from rl_lightning.functional import LOSSES
from rl_lightning.schedules import Schedule

Range = tuple[Callable[[Any], bool], str]  # whether a value is in it, and what to give

UNIT: Range = (lambda x: 0.0 <= x <= 1.0, "give a number in [0, 1]")
INSIDE_UNIT: Range = (lambda x: 0.0 < x < 1.0, "give a number in (0, 1)")
POSITIVE: Range = (lambda x: 0.0 < x < math.inf, "give a number above 0")
NOT_NEGATIVE: Range = (lambda x: 0.0 <= x < math.inf, "give 0 or more")
AT_LEAST_ONE: Range = (lambda x: x >= 1, "give 1 or more")
POSITIVE_OR_NONE: Range = (lambda x: x is None or x > 0.0, "give a number above 0, or null")
AT_LEAST_ONE_OR_NONE: Range = (lambda x: x is None or x >= 1, "give 1 or more, or null")


def one_of(*choices: str) -> Range:
    """These words and no others."""
    return lambda x: x in choices, f"give one of {choices}"


RANGES: dict[str, Range] = {
    "gamma": UNIT,
    "gae_lambda": UNIT,
    "ent_coef": NOT_NEGATIVE,
    "reward_scale": POSITIVE,
    "policy_gradient": one_of("reparameterized", "likelihood_ratio"),
    "loss": one_of(*LOSSES),
    "update": one_of("episode", "step"),
    "policy_delay": AT_LEAST_ONE,
    "target_policy_noise": NOT_NEGATIVE,
    "target_noise_clip": NOT_NEGATIVE,
    "max_grad_norm": POSITIVE_OR_NONE,
    "n_epochs": AT_LEAST_ONE,
    "batch_size": AT_LEAST_ONE_OR_NONE,
    "clip_range": POSITIVE,
    "clip_range_schedule": one_of(*get_args(Schedule)),
    "clip_range_vf": POSITIVE_OR_NONE,
    "vf_coef": POSITIVE,
    "target_kl": POSITIVE_OR_NONE,
    "cg_max_steps": AT_LEAST_ONE,
    "cg_damping": NOT_NEGATIVE,
    "line_search_shrinking_factor": INSIDE_UNIT,
    "line_search_max_iter": AT_LEAST_ONE,
    "n_critic_updates": AT_LEAST_ONE,
}


def check_ranges(**settings: Any) -> None:
    """Refuse settings out of range.

    Raises:
        UsageError: naming the setting, its value and its range.
    """
    for name, value in settings.items():
        allowed, advice = RANGES[name]
        require(allowed(value), name, value, advice)
