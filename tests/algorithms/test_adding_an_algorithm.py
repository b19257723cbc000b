"""A learner of one's own, in one short class."""

from functools import partial

import pytest
import torch
from torch.optim import Adam
from toys import TINY, fit, make_trainer

from rl_lightning import Rollout, RolloutDataModule, UsageError
from rl_lightning.algorithms.base import Algorithm, Gradients, grad
from rl_lightning.networks import CategoricalPolicy
from rl_lightning.networks.distributions import Categorical


class PolicyGradient(Algorithm):
    """∇ log π(a|s) (r − mean r) of episodes of one step."""

    learns_from = RolloutDataModule

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space, compile=False)
        policy = CategoricalPolicy(observation_space, action_space, TINY)
        self.policy = self.learned("policy", policy, partial(Adam, lr=0.02))

    def act(self, obs, deterministic=False):
        log_pi = self.policy(obs)
        return log_pi.argmax(-1) if deterministic else Categorical(log_pi).sample()

    def learn(self, batch):
        for rollout in batch:
            found = self.compute_gradients(rollout)
            self.step("policy", found)
            self.end_gradient_step(found)

    def gradients(self, batch: Rollout):
        log_prob = Categorical(self.policy(batch.obs.flatten())).log_prob(batch.action.flatten())  # [T N]
        advantage = (batch.reward - batch.reward.mean()).flatten()  # [T N]
        loss = -(advantage * log_prob).mean()
        return Gradients({"policy": grad(loss, self.policy)}, {"train/policy_loss": loss})


def bandit():
    return RolloutDataModule(
        "toys:Bandit-v0", num_envs=8, rollout_steps=4, total_env_steps=3_200, test_episodes=30, vectorization="sync"
    )


def test_a_learner_of_ones_own_learns_is_evaluated_saved_and_loaded(tmp_path):
    data = bandit()
    model = PolicyGradient(data.observation_space, data.action_space)
    trainer = fit(model, data)
    assert trainer.test(model, data, verbose=False)[0]["test/return_mean"] == 1.0
    assert model.env_steps == 3_200
    assert model.gradient_steps == 100
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    other = PolicyGradient(data.observation_space, data.action_space)
    other.load_weights(tmp_path / "own.ckpt")
    assert make_trainer().test(other, bandit(), verbose=False)[0]["test/return_mean"] == 1.0
    obs = torch.arange(3)
    assert torch.equal(other.act(obs, deterministic=True), obs)


@pytest.mark.parametrize("part", ["act", "learn", "gradients"])
def test_a_learner_that_forgets_a_part_is_refused_by_the_name_of_the_part(part):
    has = {name: getattr(PolicyGradient, name) for name in ("act", "learn", "gradients") if name != part}
    forgetful = type("Forgetful", (Algorithm,), has | {"learns_from": RolloutDataModule})
    data = bandit()
    with pytest.raises((TypeError, UsageError), match=rf"Forgetful.*\b{part}\b"):
        fit(forgetful(data.observation_space, data.action_space), data)
