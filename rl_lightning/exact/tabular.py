"""Tabular learning from samples, to be compared with exact values: N independent runs at once, without entropy.

Sutton and Barto (2018), chapters 5 and 6; double Q-learning is van Hasselt's (2010), Algorithm 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rl_lightning.errors import require
from rl_lightning.exact.checks import as_policy
from rl_lightning.exact.mdp import MDP
from rl_lightning.functional import discounted_sum, q_of_action, td_target


@dataclass(frozen=True)
class Step:
    """One step of each run, all [N]: int64, int64, float64, int64, bool."""

    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor  # any where the episode has ended
    terminated: Tensor


Sampler = Callable[[Tensor, Tensor], Step]  # states and actions [N] to what they lead to
Method = Literal["sarsa", "expected_sarsa", "q_learning", "double_q_learning"]
METHODS = ("sarsa", "expected_sarsa", "q_learning", "double_q_learning")


def sampler(mdp: MDP, generator: torch.Generator) -> Sampler:
    """Steps of a dense MDP, drawn from its rows; the reward is R(s, a), its expectation.

    Raises:
        UsageError: a sparse MDP, or many.
    """
    require(mdp.transition.ndim == 3, "transition.shape", list(mdp.transition.shape), "give one dense MDP, [S, A, S']")
    rows = torch.cat([mdp.transition, mdp.termination[..., None]], -1)  # [S, A, S' + 1]

    def step(state: Tensor, action: Tensor) -> Step:
        drawn = draw(rows[state, action], generator)  # [N]
        terminated = drawn == len(mdp.start)
        return Step(state, action, mdp.reward[state, action], drawn.masked_fill(terminated, 0), terminated)

    return step


def two_states(generator: torch.Generator, actions: int = 10) -> tuple[Sampler, Tensor]:
    """The example of maximization bias (Sutton and Barto 2018, Figure 6.5).

    In state 0 the action 0 (left) leads to state 1 and action 1 (right) to the end, both for 0; in state 1 every action
    ends with a reward of N(−0.1, 1). So left is worth −0.1, and what it seems to be worth is a maximum of noise.

    Args:
        generator: of the rewards.
        actions: of state 1, at least 2.

    Returns:
        The sampler, and q to begin with, [2, A]: zeros, and −∞ for actions that state 0 has not.
    """
    q = torch.zeros(2, actions, dtype=torch.float64)
    q[0, 2:] = -torch.inf

    def step(state: Tensor, action: Tensor) -> Step:
        noise = torch.randn(len(state), dtype=torch.float64, generator=generator)
        reward = torch.where(state == 1, noise - 0.1, 0.0)
        return Step(state, action, reward, torch.ones_like(state), (state == 1) | (action == 1))

    return step, q


def draw(probability: Tensor, generator: torch.Generator) -> Tensor:
    """An index for each row of [N, K]: [N]."""
    return torch.multinomial(probability, 1, generator=generator)[:, 0]


def epsilon_greedy(q: Tensor, epsilon: float) -> Tensor:
    """π(a|s): ε shared by all actions, 1 − ε by the best; −∞ marks one that the state has not. [N, A] to [N, A]."""
    exists = q > -torch.inf
    best = q == q.amax(-1, keepdim=True)
    return epsilon * exists / exists.sum(-1, keepdim=True) + (1.0 - epsilon) * best / best.sum(-1, keepdim=True)


def expected_q(q: Tensor, policy: Tensor) -> Tensor:
    """Σ_a π(a|s) Q(s, a), over the actions that the state has. [N, A] to [N]."""
    return torch.where(policy > 0, policy * q, 0.0).sum(-1)


def double_q(chooser: Tensor, judge: Tensor) -> Tensor:
    """Q^B(s', argmax_a Q^A(s', a)), which of one table is max_a Q(s', a). Both [N, A]; returns [N]."""
    return q_of_action(judge, chooser.argmax(-1))


def control(
    method: Method,
    sample: Sampler,
    start: Tensor,
    q: Tensor,
    gamma: float,
    learning_rate: float,
    epsilon: float,
    generator: torch.Generator,
    decay: float = 0.0,
) -> Iterator[tuple[Step, Tensor]]:
    """SARSA, expected SARSA, Q-learning or double Q-learning; acts ε-greedily, from a new start after each end.

    Args:
        method: "sarsa", "expected_sarsa", "q_learning", or "double_q_learning": two tables, and acting by their sum.
        sample: steps of the environment.
        start: [S], the distribution of the first state.
        q: [N, S, A], to begin with; −∞ for an action that the state has not. N is the number of runs.
        gamma: the discount γ.
        learning_rate: the step size, divided by n^decay in the n-th update of an entry.
        epsilon: ε of acting.
        generator: of starts, actions, and the table that learns.
        decay: 0 keeps the step size; above 0.5 up to 1 tables converge.

    Yields:
        After each step of all runs: the step, and the tables [K, N, S, A] with K = 1 or 2, which change in place.

    Raises:
        UsageError: another method.
    """
    require(method in METHODS, "method", method, f"give one of {', '.join(METHODS)}")
    tables = q.expand(2 if method == "double_q_learning" else 1, *q.shape).clone()  # [K, N, S, A]
    runs, visits = torch.arange(len(q)), torch.zeros_like(tables)
    starts = start.expand(len(q), -1)

    def policy_of(state: Tensor) -> Tensor:
        return epsilon_greedy(tables[:, runs, state].sum(0), epsilon)  # [N, A]

    state = draw(starts, generator)
    action = draw(policy_of(state), generator)
    while True:
        step = sample(state, action)
        next_policy = policy_of(step.next_state)
        next_action = draw(next_policy, generator)
        learns = torch.randint(len(tables), (len(q),), generator=generator)  # which table, [N]
        next_q = tables[learns, runs, step.next_state]  # [N, A]
        if method == "sarsa":
            next_value = q_of_action(next_q, next_action)
        elif method == "expected_sarsa":
            next_value = expected_q(next_q, next_policy)
        else:
            next_value = double_q(next_q, tables[len(tables) - 1 - learns, runs, step.next_state])
        target = td_target(step.reward, step.terminated, next_value, gamma)  # [N]
        entry = (learns, runs, state, action)
        visits[entry] += 1
        tables[entry] += learning_rate / visits[entry] ** decay * (target - tables[entry])
        yield step, tables
        state = torch.where(step.terminated, draw(starts, generator), step.next_state)
        anew = step.terminated if method == "sarsa" else torch.ones_like(step.terminated)
        action = torch.where(anew, draw(policy_of(state), generator), next_action)


def monte_carlo(
    mdp: MDP, policy: Tensor, episodes: int, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """V^π(s) as the mean return that follows the first visit of s in an episode; nan where none came by.

    Args:
        mdp: a dense one.
        policy: π, [S, A].
        episodes: their number.
        steps: at which they are cut off: enough that γ^steps, or what is still under way, may be forgotten.
        generator: of it all.

    Returns:
        V and the standard error of each entry, both [S].

    Raises:
        UsageError: a policy that is none, or a sparse MDP, or many.
    """
    policy = as_policy(policy, mdp.reward)
    sample, states = sampler(mdp, generator), len(mdp.start)
    state, running = draw(mdp.start.expand(episodes, -1), generator), torch.ones(episodes, dtype=torch.bool)
    rewards, first = [], []  # [T, N] and [T, N, S]
    seen = torch.zeros(episodes, states, dtype=torch.bool)
    for _ in range(steps):
        here = torch.nn.functional.one_hot(state, states).bool() & running[:, None]
        first.append(here & ~seen)
        seen |= here
        step = sample(state, draw(policy[state], generator))
        rewards.append(step.reward * running)
        state, running = step.next_state, running & ~step.terminated
    reward = torch.stack(rewards)
    returns = discounted_sum(reward, torch.full_like(reward, mdp.gamma))  # G_t, [T, N]
    visited = torch.stack(first).double()  # [T, N, S]
    number = visited.sum((0, 1))
    mean = torch.einsum("tn,tns->s", returns, visited) / number
    square = torch.einsum("tn,tns->s", returns.square(), visited) / number
    return mean, ((square - mean.square()).clamp(min=0.0) / number).sqrt()


def td_0(
    mdp: MDP,
    policy: Tensor,
    v: Tensor,
    learning_rate: float,
    generator: torch.Generator,
    decay: float = 0.0,
) -> Iterator[tuple[Step, Tensor]]:
    """V(s) ← V(s) + rate (r + γ V(s') − V(s)) along the policy's own steps, from a new start after each end.

    Args:
        mdp: a dense one.
        policy: π, [S, A].
        v: [N, S], to begin with; N is the number of runs.
        learning_rate: the step size, divided by n^decay at the n-th visit of a state.
        generator: of it all.
        decay: 0 keeps the step size; above 0.5 up to 1 the values converge.

    Yields:
        After each step of all runs: the step, and V [N, S], which changes in place.

    Raises:
        UsageError: a policy that is none, or a sparse MDP, or many.
    """
    policy = as_policy(policy, mdp.reward)
    sample, runs, v = sampler(mdp, generator), torch.arange(len(v)), v.clone()
    visits, starts = torch.zeros_like(v), mdp.start.expand(len(v), -1)
    state = draw(starts, generator)
    while True:
        step = sample(state, draw(policy[state], generator))
        target = td_target(step.reward, step.terminated, v[runs, step.next_state], mdp.gamma)
        visits[runs, state] += 1
        v[runs, state] += learning_rate / visits[runs, state] ** decay * (target - v[runs, state])
        yield step, v
        state = torch.where(step.terminated, draw(starts, generator), step.next_state)
