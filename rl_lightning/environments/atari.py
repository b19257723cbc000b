"""Atari 2600 games as learners see them, from `ale-py`: ``env_id: rl_lightning.atari:Atari-v0``.

Of the choices on which papers differ, the defaults are those of Machado et al. (2018, arXiv:1709.06009), which are also
those of ALE/...-v5: sticky actions, and an episode is a whole game. No button is pressed that the policy did not press:
where a game waits for FIRE to begin, the policy has to learn that.
"""

import difflib
from typing import Any, Literal

import ale_py
import gymnasium as gym
import numpy as np
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from rl_lightning.errors import require


def make_atari(
    game: str = "Pong",
    frame_skip: int = 4,
    frame_stack: int = 4,
    noop_max: int = 30,
    terminal_on_life_loss: bool = False,
    repeat_action_probability: float = 0.25,
    full_action_space: bool = False,
    render_mode: Literal["human", "rgb_array"] | None = None,
) -> gym.Env[Any, Any]:
    """Make one game: grayscale images of 84 x 84, the latest `frame_stack` of them; rewards are the game's points.

    A reset repeats the first image in the whole stack, and each step shifts it by one: replay keeps every image once.
    After 108,000 frames of the emulator, half an hour of play, an episode is truncated.

    Args:
        game: as Gymnasium spells it between ``ALE/`` and ``-v5``, e.g. ``SpaceInvaders``.
        frame_skip: frames of the emulator in one environment step, all with the same action; the image is the maximum
            of the last two.
        frame_stack: images in an observation, the newest last.
        noop_max: an episode begins after 1 to so many frames without an action, drawn anew each time; 0 for none.
        terminal_on_life_loss: an episode ends with a life. The next begins a new game, with all lives.
        repeat_action_probability: at each frame, of taking the previous action instead of the given one ("sticky
            actions"); 0 is the deterministic game of older papers and of ``...NoFrameskip-v4``, in which a greedy
            policy may go round in a circle until the episode is truncated.
        full_action_space: all 18 actions of the joystick, rather than those that matter in the game.
        render_mode: Gymnasium's.

    Returns:
        An environment with observations [frame_stack, 84, 84] uint8 and discrete actions, the first of which does
        nothing.

    Raises:
        UsageError: a game that does not exist (with the nearest ones), or a value out of range.
    """
    games = [env_id[len("ALE/") : -len("-v5")] for env_id in gym.registry if env_id.startswith("ALE/")]
    near = difflib.get_close_matches(str(game), games, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "list the games with `gymnasium.pprint_registry()`"
    require(game in games, "game", game, hint)
    for name, value, least in (
        ("frame_skip", frame_skip, 1),
        ("frame_stack", frame_stack, 1),
        ("noop_max", noop_max, 0),
    ):
        require(isinstance(value, int) and value >= least, name, value, f"give a whole number, {least} or more")
    repeat = repeat_action_probability
    allowed = isinstance(repeat, int | float) and 0.0 <= repeat <= 1.0
    require(allowed, "repeat_action_probability", repeat, "give a number in [0, 1]")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # or the first one prints a banner
    env: gym.Env[Any, Any] = gym.make(
        f"ALE/{game}-v5",
        obs_type="ram",  # read at every frame, and not used: the cheapest; to draw a screen takes 30 times as long
        frameskip=1,  # the wrapper skips
        repeat_action_probability=repeat_action_probability,
        full_action_space=full_action_space,
        render_mode=render_mode,
        disable_env_checker=True,
    )
    env = AtariPreprocessing(env, noop_max, frame_skip, terminal_on_life_loss=terminal_on_life_loss)
    env.obs_buffer = [np.empty(env.ale.getScreenDims(), np.uint8) for _ in range(2)]  # for screens, which it draws
    return FrameStackObservation(env, frame_stack)


if "Atari-v0" not in gym.registry:
    gym.register("Atari-v0", "rl_lightning.atari:make_atari")
