"""Control variates that depend on the action, by Stein's identity (lecture, section 3), and how they are fitted.

φ is a critic of the user's, such as `QNetwork`. One that was fitted on the very samples that it then corrects makes the
estimate biased, a little: fit it on others.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rl_lightning.estimators.controls import Critic, slope_of
from rl_lightning.estimators.estimate import Baseline, Batch, Estimate, advantage, distribution_of_actions, estimate
from rl_lightning.estimators.likelihood import weighted_score
from rl_lightning.estimators.pathwise import along_slope
from rl_lightning.estimators.policies import Pi, pathwise_noise, reparameterize
from rl_lightning.functional import half_squared_error


def stein(
    policy: nn.Module, batch: Batch, critic: Critic, baseline: Baseline | None = None, create_graph: bool = False
) -> Estimate:
    """(Q̂ − b(s) − φ(s, a)) ∇ log π(a|s) + ∇_θ f_θ(s, ξ) ∇_a φ(s, a) (arXiv:1710.11198, section 3.1).

    Unbiased for any φ that is no obstacle to Stein's identity: then E[φ ∇ log π], which is taken away, is
    E[∇_θ f ∇_a φ], which is given back (the paper's Theorem 3.1; lecture, section 3). φ = Q makes it `reparameterized`
    plus what Q̂ deviates from Q, φ = 0 `likelihood_ratio`.

    Args:
        policy: observations [B, *obs_shape] to π(·|s), a distribution with a known ξ: see `pathwise_noise`.
        batch: with its signal.
        critic: φ(s, a), differentiable in the action.
        baseline: b(s); the paper's φ is b + φ here (its section 3.3).
        create_graph: keep the estimate differentiable in the critic's parameters.

    Raises:
        UsageError: shapes that do not fit, actions without a density, or a distribution without a known ξ.
    """
    pi = distribution_of_actions(policy, batch)
    noise = pathwise_noise(pi, batch.action)  # ξ
    _, slope = slope_of(critic, batch.obs, reparameterize(pi, noise), create_graph)  # ∇_a φ, [B, A]
    phi = critic(batch.obs, batch.action)  # [B]
    weight = advantage(batch, baseline) - (phi if create_graph else phi.detach())
    return estimate(policy, _score_and_slope, batch, batch.action, weight, noise, slope)


def lax(
    policy: nn.Module, batch: Batch, critic: Critic, baseline: Baseline | None = None, create_graph: bool = False
) -> Estimate:
    """ĝ_LAX = (Q̂ − c_φ(a)) ∇ log π(a|s) + ∇_θ c_φ(f_θ(s, ξ)) (arXiv:1711.00123, section 3.1).

    It is `stein`, found a second time. What is its own is how c_φ is fitted: by `variance_gradient`, along with the
    policy. Arguments and errors are those of `stein`.
    """
    return stein(policy, batch, critic, baseline, create_graph)


Fitted = Callable[[nn.Module, Batch, Critic, Baseline | None, bool], Estimate]
"""`stein`, `lax` or `relax`."""


def fit_min_variance(
    policy: nn.Module,
    batch: Batch,
    critic: nn.Module,
    optimizer: Optimizer,
    baseline: Baseline | None = None,
    estimator: Fitted = stein,
    steps: int = 1,
) -> float:
    """Steps of φ down the variance of one sample's estimate (arXiv:1710.11198, section 3.3: "MinVar").

    Args:
        policy: as of the estimator; it stays as it is.
        batch: samples to fit on.
        critic: φ; its parameters are the optimizer's.
        optimizer: steps φ.
        baseline: b(s).
        estimator: `stein`, `lax` or `relax`.
        steps: how many.

    Returns:
        E‖ĝ‖² before the last step, the variance but for a constant.
    """
    moment = torch.zeros(())
    for _ in range(steps):
        moment = estimator(policy, batch, critic, baseline, True).second_moment()
        _descend(moment, critic, optimizer)
    return float(moment.detach())


def variance_gradient(estimate: Estimate, parameters: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """∂Var(ĝ)/∂φ = E[∂‖ĝ‖²/∂φ] of one sample's ĝ: its mean does not depend on φ (arXiv:1711.00123, section 3.1).

    Args:
        estimate: made with `create_graph`.
        parameters: of the critic.

    Returns:
        Of each of them.
    """
    return torch.autograd.grad(estimate.second_moment(), tuple(parameters), materialize_grads=True)


def fit_q(
    batch: Batch, critic: nn.Module, optimizer: Optimizer, baseline: Baseline | None = None, steps: int = 1
) -> float:
    """Steps of φ down E[½ (Q̂(s, a) − b(s) − φ(s, a))²] (arXiv:1710.11198, section 3.3: "FitQ").

    Args:
        batch: samples to fit on.
        critic: φ; its parameters are the optimizer's.
        optimizer: steps φ.
        baseline: b(s).
        steps: how many.

    Returns:
        The loss before the last step.
    """
    loss = torch.zeros(())
    for _ in range(steps):
        loss = half_squared_error(critic(batch.obs, batch.action), advantage(batch, baseline))
        _descend(loss, critic, optimizer)
    return float(loss.detach())


def _descend(loss: Tensor, critic: nn.Module, optimizer: Optimizer) -> None:
    parameters = [parameter for parameter in critic.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def _score_and_slope(pi: Pi, action: Tensor, weight: Tensor, noise: Tensor, slope: Tensor) -> Tensor:
    return weighted_score(pi, action, weight) + along_slope(pi, noise, slope)
