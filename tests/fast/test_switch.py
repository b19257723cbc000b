import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from short_runs import a2c, ppo, sac, weights

from rl_lightning import UsageError
from rl_lightning.fast import switch
from rl_lightning.fast.compilation import writes_over_results

ROOM = Path(switch.__file__).parent


@contextmanager
def entered():
    """Names of what runs inside: functions of the fast room, `torch.compile`, and whatever is written in C."""
    names = set()

    def note(frame, event, argument):
        if event == "c_call":
            names.add(argument.__name__)
        elif event == "call":
            path = Path(frame.f_code.co_filename)
            if path.parent == ROOM:
                names.add(f"{path.stem}.{frame.f_code.co_qualname}")
            elif frame.f_code is torch.compile.__code__:
                names.add("torch.compile")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield names
    finally:
        sys.setprofile(before)


TRICKS = {
    "acting._acting_by_attribute",
    "layers._is_its_forward",
    "stepping.step_of.<locals>.counted",
    "optim._adam",
    "optim._rmsprop",
    "_foreach_lerp_",  # of tensors.py
    "torch.compile",  # of compilation.py
}
TAKEN = {
    ppo: TRICKS - {"optim._rmsprop", "_foreach_lerp_"},
    a2c: TRICKS - {"optim._adam", "_foreach_lerp_"},
    sac: TRICKS - {"optim._rmsprop"},
}


@pytest.mark.parametrize("make", [ppo, a2c, sac])
def test_without_tricks_a_run_enters_none_of_them_and_comes_to_exactly_the_same_weights(make, plain_ways):
    with entered() as fast:
        expected = weights(make)
    assert fast & TRICKS == TAKEN[make] - {"torch.compile"}
    with plain_ways(), entered() as plain:
        actual = weights(make, compile=True)
    assert plain & TRICKS == set()
    assert {"acting._acting_by_method", "layers.one_after_the_other"} <= plain
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


def test_any_other_value_of_the_switch_is_refused(plain_ways, monkeypatch):
    with plain_ways():
        assert not switch.is_on()
    assert switch.is_on()
    for value in ("", "no", "2"):
        monkeypatch.setenv("RL_LIGHTNING_FAST", value)
        switch.is_on.cache_clear()
        with pytest.raises(UsageError, match=f"^RL_LIGHTNING_FAST='{value}' is not allowed: give 0 .*, or 1$"):
            switch.is_on()


def test_cuda_graphs_are_off_until_they_are_asked_for_and_any_other_value_is_refused(monkeypatch, plain_ways):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    def with_value(value):
        monkeypatch.setenv("RL_LIGHTNING_CUDA_GRAPHS", value)
        switch.has_cuda_graphs.cache_clear()

    monkeypatch.delenv("RL_LIGHTNING_CUDA_GRAPHS", raising=False)
    switch.has_cuda_graphs.cache_clear()
    try:
        assert not writes_over_results(cuda)
        with_value("1")
        assert writes_over_results(cuda)
        assert not writes_over_results(cpu)
        with plain_ways():
            assert not writes_over_results(cuda)
        with_value("0")
        assert not writes_over_results(cuda)
        for value in ("", "no", "2"):
            with_value(value)
            with pytest.raises(
                UsageError, match=f"^RL_LIGHTNING_CUDA_GRAPHS='{value}' is not allowed: give 1 .*, or 0$"
            ):
                writes_over_results(cpu)
    finally:
        switch.has_cuda_graphs.cache_clear()
