from contextlib import suppress

import pytest
import torch
from torch import nn

from rl_lightning.fast.acting import acting_of


class Frozen(nn.BatchNorm1d):
    """A norm that stays in eval mode."""

    def train(self, mode=True):
        return super().train(False)


class Merging(nn.Module):
    """As adapters that merge their weights in eval mode."""

    def __init__(self):
        super().__init__()
        self.linear, self.merged = nn.Linear(2, 2), False

    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)


def plain():
    shared = nn.Dropout(0.5)
    return nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), shared), "b": nn.Sequential(shared, nn.ReLU())})


def with_a_part_in_eval_mode():
    module = plain()
    module["a"].eval()
    return module


def in_eval_mode_with_a_part_in_train_mode():
    module = plain().eval()
    module["b"].train()
    return module


def with_modes_of_their_own():
    module = nn.ModuleDict({"norm": Frozen(2).train(), "adapter": Merging(), "rest": plain()})
    module["rest"]["a"].eval()
    return module


def compiled():
    return nn.Sequential(torch.compile(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), backend="eager"), nn.ReLU())


TREES = [
    plain,
    with_a_part_in_eval_mode,
    in_eval_mode_with_a_part_in_train_mode,
    with_modes_of_their_own,
    compiled,
]


def modes(module):
    return [(part.training, getattr(part, "merged", None)) for part in module.modules()]


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("make", TREES)
@pytest.mark.parametrize("gradients", [True, False])
def test_acting_is_as_between_eval_and_train_and_leaves_modes_as_they_were_also_after_an_error(make, gradients):
    module = make()
    before, in_eval_mode = modes(module), modes(make().eval())
    acting = acting_of(module.modules())
    with torch.set_grad_enabled(gradients):
        for error in (None, KeyError):
            with suppress(KeyError), acting():
                assert modes(module) == in_eval_mode
                assert not any(part.training for part in module.modules())
                assert not torch.is_grad_enabled()
                if error:
                    raise error
            assert modes(module) == before
            assert torch.is_grad_enabled() is gradients


@pytest.mark.usefixtures("either_way")
def test_modes_changed_between_two_times_are_the_ones_restored():
    module = plain()
    acting = acting_of(module.modules())
    with acting():
        pass
    module["a"].eval()
    changed = modes(module)
    with acting():
        pass
    assert modes(module) == changed
