"""Random MDPs and policies for the tests of rl_lightning.exact."""

import torch
from hypothesis import strategies as st

from rl_lightning.exact import MDP


def random_mdp(seed, states=4, actions=3, gamma=0.9, ends=0.3, batch=()):
    """Dense, with some impossible transitions, a random start, and ends in about half of the rows."""
    g = torch.Generator().manual_seed(seed)
    shape = (*batch, states, actions)
    weight = torch.rand(*shape, states, dtype=torch.float64, generator=g)
    weight = weight * (torch.rand(*shape, states, generator=g) < 0.7)
    weight[..., 0] += 0.1
    ending = torch.rand(shape, dtype=torch.float64, generator=g) * (torch.rand(shape, generator=g) < 0.5) * ends
    if gamma == 1.0:
        ending = ending + 0.05
    transition = weight / weight.sum(-1, keepdim=True) * (1.0 - ending)[..., None]
    reward = torch.randn(shape, dtype=torch.float64, generator=g)
    start = torch.rand(*batch, states, dtype=torch.float64, generator=g)
    return MDP(transition, reward, gamma, ending, start / start.sum(-1, keepdim=True))


def random_policy(seed, shape, zeros=True):
    """With some actions that are never taken, unless without `zeros`."""
    g = torch.Generator().manual_seed(seed + 1_000_000)
    policy = torch.rand(shape, dtype=torch.float64, generator=g) + 0.01
    if zeros:
        policy = policy * (torch.rand(shape, generator=g) < 0.7)
        policy[..., -1] += 0.1
    return policy / policy.sum(-1, keepdim=True)


def sparse_of(mdp):
    """The same MDP with a sparse matrix."""
    states, actions = mdp.reward.shape
    rows = mdp.transition.reshape(states * actions, states).to_sparse()
    return MDP(rows, mdp.reward, mdp.gamma, mdp.termination, mdp.start)


def seeds():
    return st.integers(0, 100_000)


def temperatures():
    return st.sampled_from([0.0, 1e-6, 0.05, 1.0, 20.0])


def discounts():
    return st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])
