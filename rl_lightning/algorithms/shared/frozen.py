"""Which networks of a learner stay as they are for now."""

import math
from collections.abc import Callable, Sequence

from torch import nn

from rl_lightning.algorithms.shared.initial_weights import part_of
from rl_lightning.algorithms.shared.learned import trainable
from rl_lightning.errors import UsageError, require


class Frozen:
    """The networks that take no gradient steps: up to some environment step, or for good.

    Args:
        networks: of the learner, by name.
        learns: whether the learner moves the network of a name.
    """

    def __init__(self, networks: dict[str, nn.Module], learns: Callable[[str], bool]) -> None:
        self._networks, self._learns = networks, learns
        self._until: dict[str, float] = {}  # environment steps at which they begin to learn

    def begin(self, algorithm: str) -> None:
        """A run begins: frozen are those without a parameter that learns, for good.

        Args:
            algorithm: its name, for the message.

        Raises:
            UsageError: where all are.
        """
        self._until = {name: math.inf for name, network in self._networks.items() if not trainable(network)}
        if self._networks and len(self._until) == len(self._networks):
            raise UsageError(
                f"{algorithm} has nothing to learn: all its parameters have requires_grad=False; set it for some, or "
                "call unfreeze()"
            )

    def check(self, parts: Sequence[str]) -> None:
        """Refuse what cannot be frozen.

        Raises:
            UsageError: a part that does not learn, or that there is not.
        """
        learning = [part_of(name, network) for name, network in self._networks.items() if self._learns(name)]
        for part in parts:
            require(part in learning, "Freeze.parts", part, f"the parts that learn are {', '.join(learning)}")

    def freeze(self, parts: Sequence[str], env_steps: int) -> None:
        """Freeze parts while the run has fewer environment steps than these."""
        for name, network in self._networks.items():
            if part_of(name, network) in parts:
                self._until[name] = max(env_steps, self._until.get(name, 0))

    def has(self, name: str, env_steps: int) -> bool:
        """Whether the network of this name is frozen at this environment step."""
        return bool(self._until) and env_steps < self._until.get(name, 0)

    def networks(self, env_steps: int) -> list[nn.Module]:
        """The networks that are frozen at this environment step."""
        return [self._networks[name] for name in self._until if self.has(name, env_steps)]
