"""Gymnasium's own vectorized CartPole, made to be reset by mask."""

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray


class CartPoleVector(CartPoleVectorEnv):
    """Gymnasium's own vectorized CartPole, to be reset by `reset_mask` as soon as an episode ends.

    One generator draws the starts of all environments, seeded with the first of the seeds.
    """

    metadata = {**CartPoleVectorEnv.metadata, "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 (Gymnasium's)
    state: Any

    def reset(  # noqa: D102 (Gymnasium's)
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        if options is None or "reset_mask" not in options:
            return super().reset(seed=seed[0] if isinstance(seed, list) else seed, options=options)
        mask: NDArray[np.bool_] = options["reset_mask"]
        self.state[:, mask] = self.np_random.uniform(self.low, self.high, size=(4, mask.sum()))
        self.steps[mask] = 0
        self.prev_done[mask] = False  # or the next step would reset them again
        return self.state.T.astype(np.float32), {}
