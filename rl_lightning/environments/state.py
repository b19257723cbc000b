"""Placeholder of the interface, until it is merged."""

from typing import Any
from collections.abc import Mapping
from gymnasium.vector import VectorEnv
from rl_lightning.types import State
import pickle, torch


def capture(envs: VectorEnv[Any, Any, Any]) -> list[State]:
    out = []
    for env in envs.envs:
        u = env.unwrapped
        s = {
            "state": torch.as_tensor(u.state).clone() if u.state is not None else None,
            "rng": u.np_random.bit_generator.state,
        }
        e = env
        while hasattr(e, "env"):
            if hasattr(e, "_elapsed_steps"):
                s["t"] = e._elapsed_steps
            e = e.env
        out.append(s)
    return out


def restore(envs: VectorEnv[Any, Any, Any], states: list[State]) -> None:
    for env, s in zip(envs.envs, states):
        u = env.unwrapped
        u.state = s["state"].numpy().copy()
        u.np_random.bit_generator.state = s["rng"]
        e = env
        while hasattr(e, "env"):
            if hasattr(e, "_elapsed_steps"):
                e._elapsed_steps = s["t"]
            e = e.env


def why_not_restorable(
    env_id: str, env_kwargs: Mapping[str, Any] | None, vectorization: str, num_envs: int
) -> str | None:
    return None
