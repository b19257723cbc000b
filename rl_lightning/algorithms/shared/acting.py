"""What one step of acting leaves to the next: noise, and the discounted returns of the episodes under way."""

import torch
from lightning.pytorch import LightningModule

from rl_lightning.algorithms.shared.learned import Metrics
from rl_lightning.exploration import ActionNoise
from rl_lightning.networks import PolicyAndValue
from rl_lightning.networks.normalization import ReturnNormalizer
from rl_lightning.types import State


def begin_acting(learner: LightningModule, noise: ActionNoise | None) -> None:
    """Let episodes begin anew; policies that learn from what they have done do so in the mode that they act in."""
    for module in learner.modules():
        if isinstance(module, PolicyAndValue):
            module.keep_policy_in_eval_mode()
    for normalizer in _return_normalizers(learner).values():
        normalizer.carried = torch.zeros((), device=learner.device)
    if noise is not None:
        noise.state = None


def state_of_acting(learner: LightningModule, noise: ActionNoise | None, metrics: Metrics) -> State:
    """What is to be saved of it, with the metrics of the latest gradient step; on the CPU."""
    carried = {name: normalizer.carried.cpu() for name, normalizer in _return_normalizers(learner).items()}
    state = None if noise is None or noise.state is None else noise.state.cpu()
    return {"noise": state, "carried": carried, "metrics": {name: metric.cpu() for name, metric in metrics.items()}}


def load_state_of_acting(
    state: State, learner: LightningModule, noise: ActionNoise | None, episodes_go_on: bool
) -> Metrics:
    """Go on from what was saved; with new episodes their returns begin anew.

    Returns:
        The metrics, on the learner's device.
    """
    if noise is not None and state["noise"] is not None:
        noise.state = state["noise"].to(learner.device)
    for name, normalizer in _return_normalizers(learner).items():
        if name in state["carried"] and episodes_go_on:
            normalizer.carried = state["carried"][name].to(learner.device)
    return {name: metric.to(learner.device) for name, metric in state["metrics"].items()}


def _return_normalizers(learner: LightningModule) -> dict[str, ReturnNormalizer]:
    return {name: module for name, module in learner.named_modules() if isinstance(module, ReturnNormalizer)}
