"""Optimizers of torch with less Python around a step, which takes small networks longer than its arithmetic does.

Their state and `state_dict` are those of the torch optimizers that they derive from.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer, RMSprop
from torch.optim.optimizer import ParamsT, _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from rl_lightning.fast import switch

Closure = Callable[[], Any] | None


class FusedAdam(Adam):
    """`torch.optim.Adam(fused=True)`, the same kernel; without amsgrad and the other settings that are not named here.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the running means of gradients and of their squares.
        eps: added to the denominator.
        weight_decay: of an L2 penalty.

    Raises:
        ValueError: a value out of range.
    """

    IMPLEMENTED = ("lr", "betas", "eps", "weight_decay")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, fused=True)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own.

        Raises:
            ValueError: a setting that the step would ignore.
        """
        refuse_ignored(self, param_group)
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, of `torch.optim.Adam` too.

        Raises:
            ValueError: a group with a setting that the step would ignore.
        """
        for group in state_dict["param_groups"]:
            refuse_ignored(self, group)
        # torch moves the counts of steps to the parameters' device for a group that says so alone
        groups = [{**group, "fused": True} for group in state_dict["param_groups"]]
        super().load_state_dict({**state_dict, "param_groups": groups})

    def step(self, closure: Closure = None) -> Any:
        """Move every parameter that has a gradient; returns what `closure` does."""
        return _step(self, _adam, closure) if switch.is_on() else _adams_step(self, closure)

    step.hooked = True  # type: ignore[attr-defined]  # or torch wraps it: see _step


class ForeachRMSprop(RMSprop):
    """`torch.optim.RMSprop(foreach=True)` without momentum, the same arithmetic.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        alpha: decay of the running mean of squared gradients.
        eps: added to the denominator.

    Raises:
        ValueError: a value out of range.
    """

    IMPLEMENTED = ("lr", "alpha", "eps")

    def __init__(self, params: ParamsT, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(params, lr, alpha, eps, foreach=True)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own.

        Raises:
            ValueError: a setting that the step would ignore.
        """
        refuse_ignored(self, param_group)
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, of `torch.optim.RMSprop` too.

        Raises:
            ValueError: a group with a setting that the step would ignore.
        """
        for group in state_dict["param_groups"]:
            refuse_ignored(self, group)
        super().load_state_dict(state_dict)

    def step(self, closure: Closure = None) -> Any:
        """Move every parameter that has a gradient; returns what `closure` does."""
        return _step(self, _rmsprop, closure) if switch.is_on() else _rmsprops_step(self, closure)

    step.hooked = True  # type: ignore[attr-defined]


NO_SETTINGS = ("params", "param_names", "foreach", "fused")  # of a group
OF_SCHEDULERS = ("initial_lr", "min_lr", "max_lr", "base_momentum", "max_momentum")  # notes that they leave in a group


def refuse_ignored(optimizer: "FusedAdam | ForeachRMSprop", group: dict[str, Any]) -> None:
    """Refuse a group of parameters with a setting that `step` does not look at."""
    name = type(optimizer).__name__
    for key, value in group.items():
        known = key in (*optimizer.IMPLEMENTED, *NO_SETTINGS, *OF_SCHEDULERS)
        if not known and not (key in optimizer.defaults and value == optimizer.defaults[key]):
            raise ValueError(
                f"{name} ignores {key}={value!r} of a group of parameters: its settings are "
                f"{', '.join(optimizer.IMPLEMENTED)}; take an optimizer of torch.optim for others"
            )


Update = Callable[[list[Tensor], list[Tensor], list[dict[str, Tensor]], dict[str, Any]], None]
"""Moves parameters by their gradients, given their states and the settings of their group."""


def _step(optimizer: Optimizer, update: Update, closure: Closure) -> Any:
    # torch's wrapper around every optimizer's step calls hooks, and opens a range for its profiler, which takes as long
    # as the kernel of a small network
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    if any(hooks) or _global_optimizer_pre_hooks or _global_optimizer_post_hooks:
        return _hooked_update(optimizer, update, closure)
    return _update(optimizer, update, closure)


def _update(optimizer: Any, update: Update, closure: Closure) -> Any:
    loss = None if closure is None else closure()
    with torch.no_grad():
        for group in optimizer.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [optimizer.state[parameter] for parameter in parameters]
            if not all(states):
                optimizer._init_group(group, *([] for _ in range(6)))  # fills those that are empty
            if parameters:
                update(parameters, [parameter.grad for parameter in parameters], states, group)
    return loss


_hooked_update = Optimizer.profile_hook_step(_update)


def _torchs_step(optimizer: type[Optimizer]) -> Callable[..., Any]:
    """The class's own `step` with torch's wrapper around it, which torch puts there when it makes the first one."""
    step = optimizer.step.__wrapped__ if getattr(optimizer.step, "hooked", False) else optimizer.step  # type: ignore[attr-defined]
    return Optimizer.profile_hook_step(step)


_adams_step, _rmsprops_step = _torchs_step(Adam), _torchs_step(RMSprop)


def _adam(
    parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]
) -> None:
    steps = [state["step"] for state in states]
    torch._foreach_add_(steps, 1.0)
    torch._fused_adam_(
        parameters,
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        steps,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def _rmsprop(
    parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]
) -> None:
    squares = [state["square_avg"] for state in states]
    torch._foreach_add_([state["step"] for state in states], 1.0)
    torch._foreach_mul_(squares, group["alpha"])
    torch._foreach_addcmul_(squares, gradients, gradients, value=1.0 - group["alpha"])
    denominators = torch._foreach_sqrt(squares)
    torch._foreach_add_(denominators, group["eps"])
    torch._foreach_addcdiv_(parameters, gradients, denominators, value=-group["lr"])
