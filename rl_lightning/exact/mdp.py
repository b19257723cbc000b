"""Finite Markov decision processes as tensors: P[s, a, s'], R[s, a], γ and where episodes end."""

import math
import warnings
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rl_lightning.errors import UsageError, require
from rl_lightning.exact.checks import as_float64, refuse_endless, refuse_where
from rl_lightning.exact.garnet import random_rows
from rl_lightning.exact.tables import read_table


class MDP:
    """A finite MDP in float64, on the device of `transition`; S states, A actions. What it is given is copied.

    An episode's end is worth 0 from there on: its probability is no part of `transition` and stands in `termination`.
    Many MDPs of one size can lie in front, as [*, S, A, S']; functions of this room work on all of them at once.

    Args:
        transition: P(s'|s, a), dense [*, S, A, S'] (a tensor, an array or lists) or a torch sparse matrix [S A, S'],
            whose row s A + a is that of state s and action a. Rows sum to 1, up to 1e-6, together with `termination`;
            what is missing or too much is divided out.
        reward: R(s, a), [*, S, A]; or R(s, a, s') in the shape of a dense `transition`, whose expectation is taken.
        gamma: the discount γ in [0, 1]; 1 only where the episode ends at some time under every policy.
        termination: [*, S, A], the probability that the episode ends with this step; None for nowhere.
        start: [*, S], the distribution of the first state; None for the uniform one.

    Raises:
        UsageError: shapes that do not fit, a number that is not finite, a negative probability, a row that does not sum
            to 1, a γ out of range. The message says at which state and action.
    """

    def __init__(self, transition: Any, reward: Any, gamma: float, termination: Any = None, start: Any = None) -> None:
        require(0.0 <= gamma <= 1.0, "gamma", gamma, "give a number from 0 to 1")
        sparse = isinstance(transition, Tensor) and transition.layout != torch.strided
        transition = _as_csr(transition) if sparse else as_float64("transition", transition)  # [*, S, A, S']
        shape = _shape(transition)  # [*, S, A]
        reward = as_float64("reward", reward, transition.device)
        if not sparse and termination is None and reward.shape == transition.shape:
            reward = (transition * reward).sum(-1)  # R(s, a) = E_s'[R(s, a, s')]
        absent = torch.zeros(shape, dtype=torch.float64, device=transition.device)
        termination = absent if termination is None else as_float64("termination", termination, transition.device)
        for name, given in (("reward", reward), ("termination", termination)):
            _require_shape(name, given, shape)
            refuse_where(name, ~given.isfinite(), given, "a finite number")
        refuse_where("termination", termination < 0, termination, "a probability")

        total = termination + _row_sums(transition, shape)  # [*, S, A]
        allowed = "1 as the sum of the row, with the probability that the episode ends there as `termination`"
        refuse_where("transition", (total - 1.0).abs() > 1e-6, total, allowed)
        self.transition = _divided(transition, total)
        self.reward, self.gamma, self.termination = reward.clone(), float(gamma), termination / total
        self.start = _start(start, shape[:-1], transition.device)
        if gamma == 1.0:
            refuse_endless(self.termination, self.expected_next)

    @classmethod
    def from_env(cls, env: Any, gamma: float, sparse: bool = False) -> "MDP":
        """The MDP of a Gymnasium environment that has a transition table, as its toy text environments have.

        The table is `env.unwrapped.P`, `P[s][a]` a list of (probability, next state, reward, terminated), and the start
        `env.unwrapped.initial_state_distrib`. Wrappers are not looked at; a time limit is no end of an MDP's episode.

        Args:
            env: e.g. ``gymnasium.make("FrozenLake-v1", is_slippery=False)``.
            gamma: the discount γ; an environment's table has none.
            sparse: keep the transitions as a sparse matrix.

        Raises:
            UsageError: an environment without a table, or one whose steps do not follow it.
        """
        transition, reward, termination, start = read_table(env)  # [S A, S'], [S, A], [S, A], [S]
        states, actions = reward.shape
        dense = transition if sparse else transition.to_dense().view(states, actions, states)
        return cls(dense, reward, gamma, termination, start)

    @classmethod
    def garnet(cls, states: int, actions: int, successors: int, gamma: float, seed: int, sparse: bool = False) -> "MDP":
        """A random MDP (Archibald, McKinnon and Thomas 1995): each row has its own random successors, without an end.

        Args:
            states: S.
            actions: A.
            successors: states that each (s, a) may lead to, drawn without repetition; their probabilities are the parts
                of [0, 1] between uniform random cuts.
            gamma: the discount γ, below 1.
            seed: of the generator; rewards are standard normal.
            sparse: keep the transitions as a sparse matrix, S A × successors numbers.

        Raises:
            UsageError: more successors than states, or none.
        """
        require(1 <= successors <= states, "successors", successors, f"give 1 to states={states}")
        generator = torch.Generator().manual_seed(seed)
        transition = random_rows(states * actions, states, successors, generator)  # [S A, S']
        reward = torch.randn(states, actions, dtype=torch.float64, generator=generator)
        return cls(transition if sparse else transition.to_dense().view(states, actions, states), reward, gamma)

    def to(self, device: torch.device | str) -> "MDP":
        """The same MDP on another device."""
        return MDP(self.transition.to(device), self.reward, self.gamma, self.termination, self.start)

    @property
    def sparse(self) -> bool:
        """Whether `transition` is a sparse matrix [S A, S']."""
        return self.transition.layout == torch.sparse_csr

    def expected_next(self, v: Tensor) -> Tensor:
        """E_s'[V(s')], where the end is worth 0: `[*, S]` to `[*, S, A]`; of a sparse MDP [S] to [S, A]."""
        if self.sparse:
            return (self.transition @ v).view(self.reward.shape)
        return torch.einsum("...sap,...p->...sa", self.transition, v)

    def moves(self, policy: Tensor) -> Tensor:
        """P_π(s'|s) = Σ_a π(a|s) P(s'|s, a): `[*, S, A]` to `[*, S, S']`, which of a sparse MDP is a sparse matrix."""
        if not self.sparse:
            return torch.einsum("...sap,...sa->...sp", self.transition, policy)
        taken = policy.flatten() > 0  # so that a deterministic policy keeps one row in A
        ends = (policy > 0).sum(-1).cumsum(0)
        starts, columns = torch.cat([ends.new_zeros(1), ends]), taken.nonzero()[:, 0]
        kind, shape = self.transition.crow_indices().dtype, (policy.shape[0], policy.numel())
        weights = torch.sparse_csr_tensor(
            starts.to(kind), columns.to(kind), policy.flatten()[taken], shape, check_invariants=True
        )  # [S, S A]
        return weights @ self.transition

    @cached_property
    def horizon(self) -> float:
        """The most steps, discounted by γ^t, that an episode can take: 1/(1 − γ); where γ = 1 a bound on their number.

        It makes a certificate of a Bellman residual: max |V − V*| ≤ horizon · max |T V − V|, T being the backup of one
        policy or of the best. Why: let w(s) ≥ 1 + γ max_a E[w(s')]; from T V ≤ V + c follows T(V + c w) ≤ V + c w.
        """
        if self.gamma < 1.0:
            return 1.0 / (1.0 - self.gamma)
        steps = torch.zeros_like(self.start)  # [*, S], of the policy that stays longest
        while True:
            longer = 1.0 + self.expected_next(steps).amax(-1)
            if (longer - steps).max() <= 0.5:  # 1 + E[w] ≤ w + ½ for w = steps, so 2 w is such a bound
                return 2.0 * float(steps.max())
            steps = longer


def _as_csr(transition: Tensor) -> Tensor:
    """[S A, S'] in rows, with 32-bit indices, which multiply twice as fast."""
    require(transition.ndim == 2, "transition", tuple(transition.shape), "a sparse one has the shape [S A, S']")
    entries = transition.to_sparse().coalesce()
    (row, column), value = entries.indices(), entries.values().to(torch.float64)
    bad = ~value.isfinite() | (value < 0)
    if bad.any():
        where = int(bad.nonzero()[0])
        place = f"row {int(row[where])} (state s, action a is row s A + a), next state {int(column[where])}"
        raise UsageError(f"transition={float(value[where])!r} at {place} is not allowed: give a probability")
    ends = torch.bincount(row, minlength=transition.shape[0]).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])
    kind = torch.int32 if len(value) < 2**31 else torch.int64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts.to(kind), column.to(kind), value, transition.shape, check_invariants=True)


def _shape(transition: Tensor) -> torch.Size:
    """`[*, S, A]` of transitions `[*, S, A, S']` or `[S A, S']`."""
    if transition.layout == torch.sparse_csr:
        rows, states = transition.shape
        fits = states > 0 and rows > 0 and rows % states == 0
        require(fits, "transition", (rows, states), "a sparse one has the shape [S A, S'], S of both alike")
        return torch.Size([states, rows // states])
    shape = transition.shape
    fits = transition.ndim >= 3 and shape[-1] == shape[-3] and 0 not in shape
    require(fits, "transition", tuple(shape), "a dense one has the shape [S, A, S'], S of both alike")
    for name, bad in (("a finite number", ~transition.isfinite()), ("a probability", transition < 0)):
        refuse_where("transition", bad, transition, name)
    return shape[:-1]


def _require_shape(name: str, given: Tensor, shape: torch.Size) -> None:
    hint = " ([S, A, S'] is for a dense transition without termination)" if name == "reward" else ""
    allowed = f"the shape that goes with transition is [S, A] = {list(shape)}{hint}"
    require(given.shape == shape, f"{name}.shape", list(given.shape), allowed)


def _row_sums(transition: Tensor, shape: torch.Size) -> Tensor:
    """[*, S, A]."""
    if transition.layout == torch.strided:
        return transition.sum(-1)
    ones = torch.ones(shape[0], dtype=torch.float64, device=transition.device)
    return torch.mv(transition, ones).view(shape)


def _divided(transition: Tensor, total: Tensor) -> Tensor:
    """Every row by its total [*, S, A]."""
    if transition.layout == torch.strided:
        return transition / total[..., None]
    starts = transition.crow_indices()
    of_entry = total.flatten().repeat_interleave(starts.diff())
    return torch.sparse_csr_tensor(
        starts, transition.col_indices(), transition.values() / of_entry, transition.shape, check_invariants=True
    )


def _start(given: Any, shape: torch.Size, device: torch.device) -> Tensor:
    """[*, S], checked and expanded to all MDPs."""
    if given is None:
        return torch.full(shape, 1.0 / shape[-1], dtype=torch.float64, device=device)
    start = as_float64("start", given, device)
    allowed = f"it has a probability for each of the {shape[-1]} states"
    require(start.shape in (shape, shape[-1:]), "start.shape", list(start.shape), allowed)
    refuse_where("start", ~(start.isfinite() & (start >= 0)), start, "a probability")
    total = start.sum(-1, keepdim=True)
    furthest = float(total.flatten()[(total - 1.0).abs().argmax()])
    require(math.isclose(furthest, 1.0, abs_tol=1e-6), "start.sum()", furthest, "the probabilities sum to 1")
    return (start / total).expand(shape).contiguous()
