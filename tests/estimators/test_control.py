"""Means against the exact gradient of linear-quadratic control, and of a small MDP by going through every episode."""

from functools import partial
from itertools import product

import pytest
import torch
from bandits import compare, flat
from mutants import mutant
from torch import nn
from torch.distributions import Categorical as TorchCategorical

from benchmarks.linear_quadratic import LinearQuadratic
from rl_lightning import estimators
from rl_lightning.estimators import Batch
from rl_lightning.networks.distributions import Categorical

EPISODES = 4_000
PROBLEM = LinearQuadratic(horizon=8, gamma=0.8)


def q(policy, obs, action):
    return PROBLEM.q(policy, obs, action)


def poor_q(policy, obs, action):
    return 0.6 * PROBLEM.q(policy, obs, action) + (action.sum(1) + obs[:, 0]).sin()


CONTROL = {
    "likelihood_ratio": lambda p: partial(estimators.likelihood_ratio, baseline=partial(PROBLEM.v, p)),
    "reparameterized": lambda p: partial(estimators.reparameterized, critic=partial(q, p)),
    "expected": lambda p: partial(estimators.expected, critic=partial(q, p)),
    "stein": lambda p: partial(estimators.stein, critic=partial(poor_q, p)),
    "q_prop": lambda p: partial(estimators.q_prop, critic=partial(poor_q, p), baseline=partial(PROBLEM.v, p)),
    "factorized": lambda p: partial(estimators.factorized, critic=partial(poor_q, p)),
}


def by_episode(estimate, horizon, episodes):
    """Samples of one episode depend on each other: their sums do not, [episodes, P]."""
    return estimate.flat.view(episodes, horizon, -1).sum(1)


@pytest.mark.parametrize("name", CONTROL)
def test_an_episodes_samples_sum_to_the_gradient_of_linear_quadratic_control(name):
    policy = PROBLEM.policy()
    batch = PROBLEM.samples(policy, EPISODES)
    estimate = CONTROL[name](policy)(policy, batch)
    assert compare(by_episode(estimate, PROBLEM.horizon, EPISODES), PROBLEM.gradient(policy)).accepts


@pytest.mark.parametrize("name", CONTROL)
def test_the_discount_of_algorithm_1_cannot_be_left_out(name):
    policy = PROBLEM.policy()
    batch = PROBLEM.samples(policy, EPISODES)._replace(discount=None)
    estimate = CONTROL[name](policy)(policy, batch)
    assert compare(by_episode(estimate, PROBLEM.horizon, EPISODES), PROBLEM.gradient(policy)).rejects


# a small MDP: three states, three actions, three steps from state 0
STATES, ACTIONS, STEPS, GAMMA = 3, 3, 3, 0.7
TRANSITION = torch.tensor(
    [
        [[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.2, 0.6]],
        [[0.3, 0.3, 0.4], [0.0, 1.0, 0.0], [0.7, 0.1, 0.2]],
        [[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]],
    ],
    dtype=torch.float64,
)  # [s, a, s']
REWARD = torch.tensor([[1.0, 0.2, -0.5], [0.0, 2.0, -1.0], [-1.0, 0.5, 1.5]], dtype=torch.float64)  # [s, a]


class Softmax(nn.Module):
    """π(a|s) ∝ exp(θ[s, a]), of the state in the observation's first column."""

    def __init__(self, make):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([[0.5, -0.2, 0.0], [0.1, 0.3, -0.6], [0.0, 0.0, 0.8]]).double())
        self.make = make

    def forward(self, obs):
        return self.make(self.logits[obs[:, 0].long()])


MAKES = {"ours": Categorical, "torch's": lambda logits: TorchCategorical(logits=logits)}


def true_gradient(policy):
    """∇J by J = Σ p(episode) · return, over all (3 · 3)³ episodes."""
    pi = policy.logits.softmax(-1)
    objective = torch.zeros((), dtype=torch.float64)
    for steps in product(product(range(ACTIONS), range(STATES)), repeat=STEPS):
        state, probability, returned = 0, 1.0, 0.0
        for t, (action, following) in enumerate(steps):
            probability = probability * pi[state, action] * TRANSITION[state, action, following]
            returned = returned + GAMMA**t * REWARD[state, action]
            state = following
        objective = objective + probability * returned
    (gradient,) = torch.autograd.grad(objective, policy.logits)
    return gradient.flatten()


def q_table(policy):
    """Q_t(s, a), [t, s, a]."""
    pi = policy.logits.detach().softmax(-1)
    table = [REWARD]
    for _ in range(STEPS - 1):
        table.append(REWARD + GAMMA * TRANSITION @ (pi * table[-1]).sum(-1))
    return torch.stack(table[::-1])


def samples_of(policy, episodes=EPISODES):
    """All steps of episodes one after the other; observations are (s, t)."""
    pi = policy.logits.detach().softmax(-1)
    state = torch.zeros(episodes, dtype=torch.long)
    obs, actions, rewards = [], [], []
    for t in range(STEPS):
        obs.append(torch.stack([state, torch.full_like(state, t)], 1).double())
        actions.append(torch.multinomial(pi[state], 1).squeeze(1))
        rewards.append(REWARD[state, actions[-1]])
        state = torch.multinomial(TRANSITION[state, actions[-1]], 1).squeeze(1)
    returns = [rewards[-1]]
    for reward in rewards[-2::-1]:
        returns.append(reward + GAMMA * returns[-1])
    discount = GAMMA ** torch.arange(STEPS).double().expand(episodes, STEPS)
    flattened = [torch.stack(parts, 1).flatten(0, 1) for parts in (obs, actions, returns[::-1])]
    return Batch(*flattened, discount.flatten())


def relaxed(obs, z):
    """A c_φ(s, z) that is nothing like Q."""
    return 0.7 * (z.softmax(-1) * torch.tensor([1.0, -2.0, 3.0]).double()).sum(-1) + 0.1 * z[:, 0] * obs[:, 0]


def table_critic(policy):
    table = q_table(policy)
    return lambda obs, action: table[obs[:, 1].long(), obs[:, 0].long(), action]


TABULAR = {
    "likelihood_ratio": lambda p: {},
    "likelihood_ratio with baseline": lambda p: {"baseline": lambda obs: 0.3 * obs[:, 0] - 0.4 * obs[:, 1] + 1.0},
    "expected": lambda p: {"critic": table_critic(p)},
    "relax": lambda p: {"critic": relaxed},
    "relax with baseline": lambda p: {"critic": relaxed, "baseline": lambda obs: 1.0 - 0.4 * obs[:, 1]},
}


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("name", TABULAR)
def test_an_episodes_samples_sum_to_the_gradient_of_a_softmax_policy(name, make):
    policy = Softmax(MAKES[make])
    estimate = getattr(estimators, name.split()[0])(policy, samples_of(policy), **TABULAR[name](policy))
    assert compare(by_episode(estimate, STEPS, EPISODES), true_gradient(policy)).accepts


def test_expected_is_exact_when_states_come_as_often_as_they_are_likely():
    policy = Softmax(Categorical)
    pi = policy.logits.detach().softmax(-1)
    likely = torch.zeros(STATES, dtype=torch.float64)
    likely[0] = 1.0
    obs, weight = [], []
    for t in range(STEPS):
        obs += [[s, t] for s in range(STATES)]
        weight += list(GAMMA**t * likely)
        likely = torch.einsum("s,sa,san->n", likely, pi, TRANSITION)
    batch = Batch(torch.tensor(obs).double(), torch.zeros(len(obs), dtype=torch.long), discount=torch.stack(weight))
    estimate = estimators.expected(policy, batch, table_critic(policy))
    torch.testing.assert_close(len(obs) * flat(estimate.gradient), true_gradient(policy))


RELAX = "relax.py"
MUTANTS = [
    ("relax", RELAX, "(z * slope - z_given * slope_given)", "(z * slope)"),
    ("relax", RELAX, "(z * slope - z_given * slope_given)", "(z * slope + z_given * slope_given)"),
    ("relax", RELAX, "(z * slope - z_given * slope_given)", "(-z_given * slope_given)"),
    ("relax", RELAX, "advantage(batch, baseline) - c", "advantage(batch, baseline)"),
    ("relax", RELAX, "advantage(batch, baseline) - c", "advantage(batch, baseline) + c"),
    ("relax", RELAX, "exponential.log() - log_pi", "exponential.log() - log_pi.detach()"),
    ("relax", RELAX, "torch.rand_like(log_pi)) - log_pi  #", "torch.rand_like(log_pi))  #"),
    ("expected", "pathwise.py", "(probability * q).sum(1)", "(probability.log() * q).sum(1)"),
    ("expected", "pathwise.py", "(probability * q).sum(1)", "q.sum(1) * probability[:, 0]"),
]


@pytest.mark.parametrize(("name", "file", "old", "new"), MUTANTS)
def test_an_estimator_of_discrete_actions_with_a_mistake_in_it_is_rejected(name, file, old, new):
    policy = Softmax(Categorical)
    batch = samples_of(policy, 4 * EPISODES)
    wrong = getattr(mutant(file, old, new), name)(policy, batch, **TABULAR[name](policy))
    assert compare(by_episode(wrong, STEPS, 4 * EPISODES), true_gradient(policy)).rejects
