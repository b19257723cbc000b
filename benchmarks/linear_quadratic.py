"""Linear-quadratic control with a linear Gaussian policy: its values, its gradient and its variances are known exactly.

    s' = A s + B a + w,   r = −sᵀ C s − aᵀ R a,   s_0 ~ N(0, S_0),   w ~ N(0, W),   a = K s + σ ξ,

for H steps with discount γ. V_t(s) = −sᵀ P_t s − p_t, by a backward recursion that torch can differentiate.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from rl_lightning.estimators import Batch


def double(*rows: list[float]) -> Tensor:
    """A float64 matrix."""
    return torch.tensor(rows, dtype=torch.float64)


class LinearPolicy(nn.Module):
    """N(K s, σ²): observations [B, S + 1], a state and its time, to distributions of actions [B, A]; float64."""

    def __init__(self, gain: Tensor, log_std: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(gain.clone())  # K, [A, S]
        self.log_std = nn.Parameter(log_std.clone())  # [A]

    def forward(self, obs: Tensor) -> Independent:
        """π(·|s)."""
        mean = obs[:, :-1] @ self.gain.T
        return Independent(Normal(mean, self.log_std.exp().expand_as(mean)), 1)


@dataclass(frozen=True)
class LinearQuadratic:
    """The problem: a damped oscillator whose both coordinates are pushed."""

    horizon: int = 20
    gamma: float = 0.95
    a: Tensor = field(default_factory=lambda: double([1.0, 0.2], [-0.2, 0.9]))
    b: Tensor = field(default_factory=lambda: double([0.3, 0.0], [0.1, 0.4]))
    c: Tensor = field(default_factory=lambda: double([1.0, 0.0], [0.0, 0.5]))
    r: Tensor = field(default_factory=lambda: double([0.5, 0.1], [0.1, 0.8]))
    w: Tensor = field(default_factory=lambda: 0.05 * torch.eye(2, dtype=torch.float64))
    s0: Tensor = field(default_factory=lambda: torch.eye(2, dtype=torch.float64))

    def policy(self) -> LinearPolicy:
        """One that is neither good nor bad."""
        return LinearPolicy(double([-0.3, 0.2], [0.1, -0.4]), torch.tensor([-0.7, -0.5], dtype=torch.float64))

    def values(self, policy: LinearPolicy) -> list[tuple[Tensor, Tensor]]:
        """(P_t, p_t) of t = 0, ..., H, differentiable in the policy's parameters; nothing is left at H."""
        covariance = torch.diag((2.0 * policy.log_std).exp())  # Σ
        gain, closed = policy.gain, self.a + self.b @ policy.gain
        spread = self.b @ covariance @ self.b.T + self.w  # of s' around (A + B K) s
        p_matrix, p = torch.zeros_like(self.a), torch.zeros((), dtype=torch.float64)
        found = [(p_matrix, p)]
        for _ in range(self.horizon):
            p = (self.r @ covariance).trace() + self.gamma * (p + (p_matrix @ spread).trace())
            p_matrix = self.c + gain.T @ self.r @ gain + self.gamma * closed.T @ p_matrix @ closed
            found.append((p_matrix, p))
        return found[::-1]

    def objective(self, policy: LinearPolicy) -> Tensor:
        """J = E[V_0(s_0)]."""
        p_matrix, p = self.values(policy)[0]
        return -(p_matrix @ self.s0).trace() - p

    def gradient(self, policy: LinearPolicy) -> Tensor:
        """∇J, flat in the order of the policy's parameters."""
        parts = torch.autograd.grad(self.objective(policy), list(policy.parameters()))
        return torch.cat([part.flatten() for part in parts])

    @torch.no_grad()
    def v(self, policy: LinearPolicy, obs: Tensor) -> Tensor:
        """V_t(s): [B, S + 1] to [B]."""
        p_matrix, p = self._at(policy, obs[:, -1].long())
        return -_form(obs[:, :-1], p_matrix) - p

    def q(self, policy: LinearPolicy, obs: Tensor, action: Tensor) -> Tensor:
        """Q_t(s, a): [B, S + 1] and [B, A] to [B]; differentiable in the action."""
        with torch.no_grad():
            p_matrix, p = self._at(policy, obs[:, -1].long() + 1)
        reward = -_form(obs[:, :-1], self.c) - _form(action, self.r)
        left = p + (p_matrix @ self.w).diagonal(dim1=-2, dim2=-1).sum(-1)
        return reward - self.gamma * (_form(self._next_mean(obs, action), p_matrix) + left)

    @torch.no_grad()
    def samples(self, policy: LinearPolicy, episodes: int) -> Batch:
        """Episodes one after the other, [episodes · H] samples with returns G_t and γ^t; ∇J is H times their mean."""
        std = policy.log_std.exp()
        state = torch.randn(episodes, len(self.a), dtype=torch.float64) @ _root(self.s0).T
        obs, actions, rewards = [], [], []
        for t in range(self.horizon):
            obs.append(torch.cat([state, torch.full((episodes, 1), float(t), dtype=torch.float64)], 1))
            action = state @ policy.gain.T + std * torch.randn(episodes, len(std), dtype=torch.float64)
            actions.append(action)
            rewards.append(-_form(state, self.c) - _form(action, self.r))
            state = state @ self.a.T + action @ self.b.T + torch.randn_like(state) @ _root(self.w).T
        returns, g = [], torch.zeros(episodes, dtype=torch.float64)
        for reward in reversed(rewards):
            g = reward + self.gamma * g
            returns.append(g)
        signal = torch.stack(returns[::-1], 1)  # [episodes, H]
        discount = self.gamma ** torch.arange(self.horizon, dtype=torch.float64).expand_as(signal)
        together = [torch.stack(parts, 1).flatten(0, 1) for parts in (obs, actions)]
        return Batch(together[0], together[1], signal.flatten(), discount.flatten())

    @torch.no_grad()
    def returns(self, policy: LinearPolicy, obs: Tensor, action: Tensor) -> Tensor:
        """A sample of G_t from (s, a) at time t on: [B, S + 1] and [B, A] to [B]."""
        state, left = obs[:, :-1], self.horizon - obs[:, -1]  # steps left, this one included
        g, discount = torch.zeros(len(obs), dtype=torch.float64), 1.0
        for k in range(int(left.max())):
            g += discount * (left > k) * -(_form(state, self.c) + _form(action, self.r))
            state = state @ self.a.T + action @ self.b.T + torch.randn_like(state) @ _root(self.w).T
            action = state @ policy.gain.T + policy.log_std.exp() * torch.randn_like(action)
            discount *= self.gamma
        return g

    @torch.no_grad()
    def state_covariances(self, policy: LinearPolicy) -> Iterator[Tensor]:
        """Of s_t ~ N(0, S_t), t = 0, ..., H − 1."""
        closed = self.a + self.b @ policy.gain
        spread = self.b @ torch.diag((2.0 * policy.log_std).exp()) @ self.b.T + self.w
        covariance = self.s0
        for _ in range(self.horizon):
            yield covariance
            covariance = closed @ covariance @ closed.T + spread

    @torch.no_grad()
    def return_variance(self, policy: LinearPolicy, obs: Tensor, action: Tensor) -> Tensor:
        """Var[G_t | s, a], of the noise and of all actions after a: [B, S + 1] and [B, A] to [B]."""
        time = obs[:, -1].long() + 1
        p_matrix, _ = self._at(policy, time)
        later = self._variances(policy)
        u_matrix = torch.stack([matrix for matrix, _ in later])[time]
        u = torch.stack([number for _, number in later])[time]
        mean = self._next_mean(obs, action)
        # γ V(s') of a Gaussian s', then what is left to vary from s' on
        of_value = _variance_of_form(mean, self.w, p_matrix)
        of_rest = _form(mean, u_matrix) + (u_matrix @ self.w).diagonal(dim1=-2, dim2=-1).sum(-1) + u
        return self.gamma**2 * (of_value + of_rest)

    def _variances(self, policy: LinearPolicy) -> list[tuple[Tensor, Tensor]]:
        """(U_t, u_t) with Var[G_t | s] = sᵀ U_t s + u_t, t = 0, ..., H."""
        covariance = torch.diag((2.0 * policy.log_std).exp())
        gain, closed = policy.gain, self.a + self.b @ policy.gain
        mean_of_both = torch.cat([gain, closed])  # of (a, s'), times s
        with_action = torch.cat([torch.eye(len(gain), dtype=torch.float64), self.b])
        spread = with_action @ covariance @ with_action.T
        spread[len(gain) :, len(gain) :] += self.w
        u_matrix, u = torch.zeros_like(self.a), torch.zeros((), dtype=torch.float64)
        found = [(u_matrix, u)]
        for p_matrix, _ in self.values(policy)[:0:-1]:  # P_H, ..., P_1
            m = torch.block_diag(self.r, self.gamma * p_matrix)  # r + γ V(s') is a form of (a, s')
            u = 2.0 * (m @ spread @ m @ spread).trace() + self.gamma**2 * (
                u + (u_matrix @ spread[len(gain) :, len(gain) :]).trace()
            )
            u_matrix = (
                4.0 * mean_of_both.T @ m @ spread @ m @ mean_of_both + self.gamma**2 * closed.T @ u_matrix @ closed
            )
            found.append((u_matrix, u))
        return found[::-1]

    def _at(self, policy: LinearPolicy, time: Tensor) -> tuple[Tensor, Tensor]:
        """P_t [B, S, S] and p_t [B]."""
        values = self.values(policy)
        return torch.stack([matrix for matrix, _ in values])[time], torch.stack([number for _, number in values])[time]

    def _next_mean(self, obs: Tensor, action: Tensor) -> Tensor:
        return obs[:, :-1] @ self.a.T + action @ self.b.T


def _form(x: Tensor, matrix: Tensor) -> Tensor:
    """xᵀ M x: [B, N] and [N, N] or [B, N, N] to [B]."""
    return torch.einsum("bi,bij,bj->b", x, matrix.expand(len(x), -1, -1), x)


def _variance_of_form(mean: Tensor, covariance: Tensor, matrix: Tensor) -> Tensor:
    """Var[xᵀ M x] of x ~ N(mean, covariance): 2 tr(M S M S) + 4 mᵀ M S M m. [B, N], [N, N], [B, N, N] to [B]."""
    product = matrix @ covariance
    trace = (product @ product).diagonal(dim1=-2, dim2=-1).sum(-1)
    return 2.0 * trace + 4.0 * _form(mean, product @ matrix)


def _root(covariance: Tensor) -> Tensor:
    return torch.linalg.cholesky(covariance)
