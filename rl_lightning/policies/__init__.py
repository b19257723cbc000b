"""Policies that have left their learner: as a function of NumPy arrays, and as a folder of data."""

from rl_lightning.policies.load import export_policy, load_policy
from rl_lightning.policies.policy import Policy

__all__ = ["Policy", "export_policy", "load_policy"]
