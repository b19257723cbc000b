"""A task of images, learned to its optimum: convolutions, stacked frames that replay keeps once, and bootstrapping."""

from functools import partial

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import FrameStackObservation
from torch.optim import Adam
from torch.optim.lr_scheduler import LinearLR
from toys import fit, make_trainer

from rl_lightning import DQN, MLP, EpsilonGreedy, ReplayDataModule

SIDE, SPEED = 36, 4  # the smallest image that has the convolutions of Atari; pixels


class WhichWayEnv(gym.Env):
    """A bar of light wanders round and round, to the left or to the right. Wait, or say where it goes.

    An answer ends the episode: reward 1 if it is right, −1 if not. One image does not tell, so that the best is to wait
    for the second one.
    """

    WAIT, LEFT, RIGHT = range(3)

    def __init__(self):
        self.observation_space = Box(0, 255, (SIDE, SIDE), np.uint8)
        self.action_space = Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = SPEED * int(self.np_random.integers(SIDE // SPEED))
        self.direction = int(self.np_random.choice([self.LEFT, self.RIGHT]))
        return self._image(), {}

    def step(self, action):
        self.position = (self.position + (SPEED if self.direction == self.RIGHT else -SPEED)) % SIDE
        answered = bool(action != self.WAIT)
        reward = (1.0 if action == self.direction else -1.0) if answered else 0.0
        return self._image(), reward, answered, False, {}

    def _image(self):
        image = np.zeros((SIDE, SIDE), np.uint8)
        image[:, self.position : self.position + SPEED] = 255
        return image


def which_way(frame_stack: int = 2) -> gym.Env:
    return FrameStackObservation(WhichWayEnv(), frame_stack)


if "WhichWay-v0" not in gym.registry:
    gym.register("WhichWay-v0", which_way, max_episode_steps=8)


def test_one_image_says_nothing_and_two_say_which_way():
    left, right = which_way(), which_way()
    for env, direction in ((left, WhichWayEnv.LEFT), (right, WhichWayEnv.RIGHT)):
        first, _ = env.reset(seed=0)
        env.unwrapped.direction = direction
        assert np.array_equal(first[0], first[1])
    (a, *_), (b, *_) = left.step(WhichWayEnv.WAIT), right.step(WhichWayEnv.WAIT)
    assert np.array_equal(a[0], b[0])
    assert np.array_equal(np.roll(a[1], 2 * SPEED, axis=1), b[1])


def test_the_second_image_is_waited_for_and_tells_where_the_light_goes():
    data = ReplayDataModule(
        "WhichWay-v0",
        total_env_steps=2_400,
        env_steps_per_epoch=2_400,
        learning_starts=400,
        train_freq=4,
        replay_ratio=0.5,
        batch_size=32,
        buffer_size=2_400,
        env_steps_per_batch=100,
        test_episodes=60,
    )
    model = DQN(
        data.observation_space,
        data.action_space,
        gamma=0.9,
        target_update_interval=50,
        exploration=partial(EpsilonGreedy, final_eps=0.1, fraction=0.5),
        network=partial(MLP, hidden_sizes=()),
        q_optimizer=partial(Adam, lr=1e-3, fused=True),
        q_scheduler=partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=1_000),
        compile=False,
    )
    trainer = fit(model, data, make_trainer())
    assert data.buffer.nbytes < 1.2 * data.buffer_size * SIDE * SIDE, "each image once"
    [result] = trainer.test(model, data, verbose=False)
    assert result["test/return_mean"] == 1.0
    assert result["test/return_std"] == 0.0
    assert result["test/episode_length_mean"] < 2.2, "no longer than needed"
