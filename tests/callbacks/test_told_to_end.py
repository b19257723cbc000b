"""A signal ends the process with its code, whatever the process is doing."""

import os
import signal

import gymnasium as gym
import pytest
from toys import CounterEnv, make_trainer, tiny_sac

from rl_lightning import ReplayDataModule
from rl_lightning.callbacks.checkpoints import EXIT_CODES


class Told(CounterEnv):
    """Told to end while it steps."""

    def step(self, action):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().step(action)


gym.register("Told-v0", Told)


def test_a_signal_that_comes_during_a_step_is_no_fault_of_the_environment():
    data = ReplayDataModule("Told-v0", total_env_steps=20, learning_starts=5, eval_episodes=1, test_episodes=1)
    model = tiny_sac(data.observation_space, data.action_space)
    with pytest.raises(SystemExit) as end:
        make_trainer().test(model, data, verbose=False)
    assert end.value.code == EXIT_CODES[signal.SIGTERM] == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
