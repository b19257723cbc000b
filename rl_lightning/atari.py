"""The short way to Atari games in a config: ``env_id: rl_lightning.atari:Atari-v0``."""

from rl_lightning.environments.atari import make_atari

__all__ = ["make_atari"]
