import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_lightning.data.replay.sum_tree import FAN_OUT, TOP, SumTree

SIZES = st.sampled_from([1, 2, FAN_OUT, FAN_OUT + 1, 1000, TOP, TOP + 1, 3 * TOP, TOP * FAN_OUT + 7])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(size=SIZES, seed=st.integers(0, 99), rounds=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_sums_are_those_of_the_weights_whatever_is_updated(size, seed, rounds):
    rng = np.random.default_rng(seed)
    tree, oracle = SumTree(size), np.zeros(size)
    for _ in range(rounds):
        index, weight = rng.integers(size, size=50), rng.random(50) * 10.0 ** rng.integers(-12, 12)
        tree.update(index, weight)
        for i, w in zip(index, weight, strict=True):  # of equal ones the last
            oracle[i] = w
    np.testing.assert_array_equal(tree.weights, oracle)
    for below, level in zip(tree._levels, tree._levels[1:], strict=False):
        sums = below.reshape(-1, FAN_OUT).sum(axis=1)
        np.testing.assert_array_equal(level[: len(sums)], sums)
        assert not level[len(sums) :].any()
    filled = SumTree(size)
    filled.fill(oracle)
    for one, same in zip(tree._levels, filled._levels, strict=True):
        np.testing.assert_array_equal(one, same)


@given(size=SIZES, seed=st.integers(0, 99), share=st.sampled_from([0.001, 0.1, 1.0]))
@settings(max_examples=40, deadline=None)
def test_only_what_has_a_weight_is_drawn_and_in_proportion_to_it(size, seed, share):
    rng = np.random.default_rng(seed)
    weight = rng.random(size) * (rng.random(size) < share)
    weight[rng.integers(size)] = 1.0
    tree = SumTree(size)
    tree.fill(weight)
    draws = tree.sample(20_000, generator(seed))
    assert (weight[draws] > 0).all()
    # in ten parts of equal length: within five standard deviations of a binomial
    part = np.minimum(np.arange(size) * 10 // size, 9)
    p = np.bincount(part, weight, minlength=10) / weight.sum()
    found = np.bincount(part[draws], minlength=10) / 20_000
    assert (np.abs(found - p) <= 5 * np.sqrt(p * (1 - p) / 20_000) + 1e-12).all()


@pytest.mark.parametrize("weights", [[0.0, 0.3, 0.7, 0.0], [0.1] * 10 + [0.0] * 5, [1e-300, 1e300, 0.0]])
@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
def test_the_ends_of_the_range_fall_on_the_first_and_last_weight(weights, number, monkeypatch):
    tree = SumTree(len(weights))
    tree.fill(np.array(weights))
    large = SumTree(TOP * FAN_OUT + 1)
    large.update(np.arange(len(weights)) * 3000, np.array(weights))
    monkeypatch.setattr(torch, "rand", lambda *shape, generator, dtype: torch.full(shape, number, dtype=dtype))
    place = np.flatnonzero(weights)[0 if number == 0 else -1]
    if weights == [1e-300, 1e300, 0.0] and number > 0:
        place = 1
    assert tree.sample(3, generator()).tolist() == [place] * 3
    assert large.sample(3, generator()).tolist() == [place * 3000] * 3
