"""Target networks that follow their online networks."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from rl_lightning.errors import require
from rl_lightning.functional import polyak_update


class PolyakAveraging(Callback):
    """ψ̄ ← τ ψ + (1 − τ) ψ̄ every `target_update_interval` gradient steps of ψ (the last line of SAC's Algorithm 1).

    It follows the pairs of the learner's `target_networks()`, parameters and buffers alike. `tau=1` copies. The target
    of a network that is frozen for now stays as it is.

    Args:
        tau: the weight of the online network, in (0, 1].
        target_update_interval: gradient steps of the online networks from one update to the next.

    Raises:
        UsageError: a value out of range.

    Example::

        Trainer(callbacks=[PolyakAveraging(tau=1.0, target_update_interval=1000)])  # a copy, now and then
    """

    def __init__(self, tau: float = 0.005, target_update_interval: int = 1) -> None:
        require(0.0 < tau <= 1.0, "tau", tau, "give a number in (0, 1]")
        require(target_update_interval >= 1, "target_update_interval", target_update_interval, "give 1 or more")
        self.tau, self.target_update_interval = tau, target_update_interval
        self.gradient_steps = 0
        self._pairs: list[tuple[list[Tensor], list[Tensor], nn.Module]] = []  # tensors of target and online, and that

    def check_pace(self, tau: float, target_update_interval: int) -> None:
        """Refuse one more target that is to follow at another pace.

        Raises:
            UsageError: naming the pace.
        """
        pace, own = (tau, target_update_interval), (self.tau, self.target_update_interval)
        advice = f"one callback moves all targets of a learner; give {own} here too"
        require(pace == own, "tau, target_update_interval", pace, advice)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A run starts at zero, unless a checkpoint is restored after this."""
        if stage == "fit":
            self.gradient_steps, self._pairs = 0, []

    def on_gradient_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called by learners after a gradient step; one of networks that have no target, a policy's, does not count."""
        if not getattr(pl_module, "moved_online_networks", True):
            return
        self.gradient_steps += 1
        if self.gradient_steps % self.target_update_interval == 0:
            if not self._pairs:  # looked up once, on the device where training goes on
                pairs = pl_module.target_networks()  # type: ignore[operator]
                self._pairs = [(_tensors(target), _tensors(online), online) for online, target in pairs]
            frozen: list[nn.Module] = getattr(pl_module, "frozen_networks", list)()
            for target, online, network in self._pairs:
                if not any(network is one for one in frozen):
                    polyak_update(target, online, self.tau)

    def state_dict(self) -> dict[str, Any]:
        """The clock; τ and the interval are settings, and come from the run at hand."""
        return {"gradient_steps": self.gradient_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.gradient_steps = state_dict["gradient_steps"]


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
