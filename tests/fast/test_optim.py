from copy import deepcopy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import Adam, RMSprop
from torch.optim.lr_scheduler import LinearLR

from rl_lightning.optim import ForeachRMSprop, FusedAdam

PAIRS = [
    pytest.param(partial(FusedAdam, lr=1e-2), partial(Adam, lr=1e-2, fused=True), id="Adam"),
    pytest.param(
        partial(FusedAdam, lr=1e-2, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1),
        partial(Adam, lr=1e-2, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, fused=True),
        id="Adam with other settings",
    ),
    pytest.param(
        partial(ForeachRMSprop, lr=1e-2, alpha=0.9, eps=1e-5),
        partial(RMSprop, lr=1e-2, alpha=0.9, eps=1e-5, foreach=True),
        id="RMSprop",
    ),
]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def give_gradients(net, seed, without=()):
    torch.manual_seed(seed)
    for i, parameter in enumerate(net.parameters()):
        gradient = torch.randn_like(parameter)
        parameter.grad = None if i in without else gradient


def assert_equal(net, other):
    for parameter, wanted in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, wanted, rtol=0, atol=0)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("ours", "torchs"), PAIRS)
def test_parameters_move_exactly_as_with_torchs_own(ours, torchs):
    mine, theirs = network(), network()
    optimizers = ours(mine.parameters()), torchs(theirs.parameters())
    for step in range(5):
        for net, optimizer in zip((mine, theirs), optimizers, strict=True):
            give_gradients(net, seed=step)
            optimizer.step()
        assert_equal(mine, theirs)
    assert not torch.equal(mine[0].weight, network()[0].weight)


def test_the_first_step_of_adam_is_the_learning_rate_long():
    parameter = nn.Parameter(torch.tensor([1.0, 1.0]))
    parameter.grad = torch.tensor([0.5, -30.0])
    FusedAdam([parameter], lr=0.1, eps=0.0).step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.9, 1.1]))


def test_the_first_step_of_rmsprop_by_hand():
    parameter = nn.Parameter(torch.tensor([1.0]))
    parameter.grad = torch.tensor([2.0])
    ForeachRMSprop([parameter], lr=0.1, alpha=0.75, eps=1.0).step()
    # the mean square is 0.25 x 4 = 1, so the step is 0.1 x 2 / (1 + 1)
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.9]))


@pytest.mark.parametrize(("ours", "torchs"), PAIRS)
@settings(max_examples=20, deadline=None)
@given(without=st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=4))
def test_parameters_without_a_gradient_stay_and_keep_their_own_count(ours, torchs, without):
    mine, theirs = network(), network()
    optimizers = ours(mine.parameters()), torchs(theirs.parameters())
    for step, missing in enumerate(without):
        for net, optimizer in zip((mine, theirs), optimizers, strict=True):
            give_gradients(net, step, missing)
            optimizer.step()
    assert_equal(mine, theirs)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("ours", "torchs"), PAIRS)
def test_each_group_has_its_own_learning_rate_and_a_scheduler_changes_it(ours, torchs):
    mine, theirs = network(), network()
    optimizers = [
        make([{"params": net[0].parameters(), "lr": 0.5}, {"params": net[2].parameters()}])
        for make, net in ((ours, mine), (torchs, theirs))
    ]
    schedulers = [LinearLR(optimizer, 1.0, 0.1, total_iters=3) for optimizer in optimizers]
    for step in range(4):
        for net, optimizer, scheduler in zip((mine, theirs), optimizers, schedulers, strict=True):
            give_gradients(net, step)
            optimizer.step()
            scheduler.step()
        assert_equal(mine, theirs)
    assert optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("ours", "torchs"), PAIRS)
@pytest.mark.parametrize("to_ours", [True, False])
def test_the_state_of_torchs_own_can_be_taken_over_and_given_back(ours, torchs, to_ours):
    first, second = (torchs, ours) if to_ours else (ours, torchs)
    net = network()
    optimizer = first(net.parameters())
    give_gradients(net, 0)
    optimizer.step()
    resumed = network(1)
    resumed.load_state_dict(net.state_dict())
    other = second(resumed.parameters())
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for going_on, steps in ((net, optimizer), (resumed, other)):
        give_gradients(going_on, 1)
        steps.step()
    assert_equal(resumed, net)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("make", [FusedAdam, ForeachRMSprop])
def test_hooks_are_called_and_the_closures_value_comes_back(make):
    net = network()
    optimizer = make(net.parameters(), lr=1e-2)
    called = []
    before = optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))

    def closure():
        assert torch.is_grad_enabled()
        loss = net(torch.ones(1, 3)).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).requires_grad
    assert called == ["before", "after"]
    before.remove()
    optimizer.step(closure)
    assert called == ["before", "after", "after"]
    assert not torch.equal(net[0].weight, network()[0].weight)


@pytest.mark.parametrize("make", [FusedAdam, ForeachRMSprop])
def test_a_negative_learning_rate_is_refused(make):
    with pytest.raises(ValueError, match="Invalid learning rate"):
        make(network().parameters(), lr=-1.0)


IGNORED = [
    (FusedAdam, "amsgrad", True),
    (FusedAdam, "maximize", True),
    (FusedAdam, "decoupled_weight_decay", True),
    (FusedAdam, "learning_rate", 0.1),
    (ForeachRMSprop, "momentum", 0.9),
    (ForeachRMSprop, "centered", True),
    (ForeachRMSprop, "weight_decay", 0.1),
    (ForeachRMSprop, "maximize", True),
]


@pytest.mark.parametrize(("ours", "key", "value"), IGNORED)
def test_a_setting_of_a_group_that_the_step_would_ignore_is_refused(ours, key, value):
    first, last = network()[0], network()[2]
    with pytest.raises(ValueError, match=rf"{ours.__name__} ignores {key}={value!r}.*torch\.optim"):
        ours([{"params": first.parameters()}, {"params": last.parameters(), key: value}])


@pytest.mark.parametrize(
    ("ours", "torchs", "setting"), [(FusedAdam, Adam, "amsgrad"), (ForeachRMSprop, RMSprop, "centered")]
)
def test_a_state_with_a_setting_that_the_step_would_ignore_is_refused(ours, torchs, setting):
    state = torchs(network().parameters(), **{setting: True}).state_dict()
    with pytest.raises(ValueError, match=f"ignores {setting}=True"):
        ours(network().parameters()).load_state_dict(state)


def test_a_group_may_have_its_own_weight_decay_betas_and_eps():
    mine, theirs = network(), network()
    for net, optimizer in ((mine, FusedAdam), (theirs, partial(Adam, fused=True))):
        groups = [
            {"params": [net[0].weight, net[2].weight], "weight_decay": 0.3, "betas": (0.5, 0.6)},
            {"params": [net[0].bias, net[2].bias], "eps": 0.1, "lr": 0.2},
        ]
        made = optimizer(groups)
        for step in range(3):
            give_gradients(net, seed=step)
            made.step()
    assert_equal(mine, theirs)
