"""Estimators of the policy gradient, between values and policies (lecture, sections 2, 3 and 6)."""

from rl_lightning.estimators.controls import linear_control, marginal_baselines, q_prop_eta
from rl_lightning.estimators.policies import log_prob_per_dim, noise_of, reparameterize

__all__ = ["linear_control", "log_prob_per_dim", "marginal_baselines", "noise_of", "q_prop_eta", "reparameterize"]
