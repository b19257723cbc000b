"""Field names, shapes and dtypes of what flows between environments, replay and learners."""

from typing import Any, NamedTuple

from torch import Tensor


class Transition(NamedTuple):
    """Transitions (s, a, r, s'), any leading batch dimensions `*`."""

    obs: Tensor  # [*, *obs_shape], the observation space's dtype (float64 becomes float32)
    action: Tensor  # [*, A] float32, the policy's action in [-1, 1]
    reward: Tensor  # [*] float32, the environment's raw reward
    next_obs: Tensor  # [*, *obs_shape]; at an episode's end its last observation, never the next reset's
    terminated: Tensor  # [*] bool; true termination only: a time limit still bootstraps


class Episode(NamedTuple):
    """One recorded episode of T steps."""

    obs: Tensor  # [T + 1, *obs_shape], the last observation included
    action: Tensor  # [T, A] float32, the policy's action in [-1, 1]
    reward: Tensor  # [T] float32
    terminated: bool  # how it ended: a terminal state, or else a time limit


State = dict[str, Any]  # what `state_dict` returns: tensors and primitives only
