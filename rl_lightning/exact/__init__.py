"""The lecture's section 5.1 on finite MDPs, exactly: soft policy iteration, its parts, and what checks them."""

from rl_lightning.exact.evaluation import (
    Solution,
    bellman_backup,
    soft_bellman_backup,
    soft_policy_evaluation,
    soft_state_value,
)
from rl_lightning.exact.iteration import soft_policy_iteration, soft_value_iteration
from rl_lightning.exact.mdp import MDP
from rl_lightning.exact.occupancy import finite_objective, objective, occupancy, policy_gradient, state_occupancy
from rl_lightning.exact.policies import PolicyClass, soft_policy_improvement

__all__ = [
    "MDP",
    "PolicyClass",
    "Solution",
    "bellman_backup",
    "finite_objective",
    "objective",
    "occupancy",
    "policy_gradient",
    "soft_bellman_backup",
    "soft_policy_evaluation",
    "soft_policy_improvement",
    "soft_policy_iteration",
    "soft_state_value",
    "soft_value_iteration",
    "state_occupancy",
]
