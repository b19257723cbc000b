import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_mdps import seeds

from rl_lightning import UsageError
from rl_lightning.exact import PolicyClass, soft_policy_improvement


def kl(policy, logits):
    """KL(π ‖ softmax(logits)), 0 log 0 being 0."""
    log_target = torch.log_softmax(logits, -1)
    return (torch.xlogy(policy, policy) - torch.where(policy > 0, policy * log_target, 0.0)).sum(-1)


def test_the_improvement_among_all_policies_is_the_softmax_by_hand():
    q = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    e = math.exp(1 / 0.5)
    assert soft_policy_improvement(q, 0.5)[0].tolist() == pytest.approx([1 / (1 + e), e / (1 + e)])


def test_the_projection_onto_a_subset_renormalizes_by_hand():
    q = torch.log(torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64))
    subset = PolicyClass(torch.tensor([[True, False, True]]))
    assert soft_policy_improvement(q, 1.0, subset)[0].tolist() == pytest.approx([2 / 7, 0.0, 5 / 7])


def test_the_projection_onto_a_floor_fills_up_by_hand_and_in_two_rounds_where_the_first_lowers_others():
    q = torch.log(torch.tensor([[0.7, 0.21, 0.08, 0.01]], dtype=torch.float64))
    # 0.01 is raised to 0.1: 0.9/0.99 leaves 0.636, 0.191, 0.073; 0.073 is raised too: 0.8/0.91 leaves 0.615, 0.185
    expected = [0.7 * 0.8 / 0.91, 0.21 * 0.8 / 0.91, 0.1, 0.1]
    assert soft_policy_improvement(q, 1.0, PolicyClass(floor=0.1))[0].tolist() == pytest.approx(expected)
    # with 0.19 the second is under it only after the others have been raised
    third = soft_policy_improvement(q, 1.0, PolicyClass(floor=0.19))[0].tolist()
    assert third == pytest.approx([0.43, 0.19, 0.19, 0.19])


def test_at_temperature_zero_the_first_of_the_best_takes_all_that_the_floors_leave():
    q = torch.tensor([[1.0, 5.0, 5.0], [9.0, 0.0, 0.0]], dtype=torch.float64)
    subset = torch.tensor([[True, True, True], [False, True, True]])
    policy = soft_policy_improvement(q, 0.0, PolicyClass(subset, 0.1))
    assert policy.flatten().tolist() == pytest.approx([0.1, 0.8, 0.1, 0.0, 0.9, 0.1])


@given(seeds(), st.sampled_from([0.01, 0.3, 5.0]), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_no_policy_of_the_class_is_nearer_than_the_projection(seed, ent_coef, which):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 4, dtype=torch.float64, generator=g)
    allowed = torch.rand(2, 4, generator=g) < 0.6
    allowed[:, 0] = True
    floors = torch.rand(2, 4, dtype=torch.float64, generator=g) / 4
    within = [PolicyClass(allowed), PolicyClass(floor=floors), PolicyClass(allowed, floors)][which]
    projected = soft_policy_improvement(q, ent_coef, within)
    mask, floor = within.limits(q)
    torch.testing.assert_close(projected.sum(-1), torch.ones(2, dtype=torch.float64))
    assert (projected >= floor - 1e-12).all()
    assert (projected[~mask] == 0).all()
    logits = (q / ent_coef).masked_fill(~mask, -torch.inf)
    nearest = kl(projected, logits)
    weight = torch.rand(2000, 2, 4, dtype=torch.float64, generator=g).pow(4) * mask + 1e-9 * mask
    random = weight / weight.sum(-1, keepdim=True)
    others = floor + (1 - floor.sum(-1, keepdim=True)) * random
    others[1000:] = 0.99 * projected + 0.01 * others[1000:]  # near ones too: the class is convex
    assert (kl(others, logits) >= nearest - 1e-12).all()


@given(seeds(), st.sampled_from([0.0, 1e-300, 1e-12, 1.0, 1e12]))
@settings(max_examples=40, deadline=None)
def test_projections_of_extreme_q_are_finite_policies_of_the_class(seed, ent_coef):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(3, 5, dtype=torch.float64, generator=g) * 10 ** (seed % 200 - 100.0)
    floors = torch.rand(3, 5, dtype=torch.float64, generator=g) / 5
    policy = soft_policy_improvement(q, ent_coef, PolicyClass(floor=floors))
    torch.testing.assert_close(policy.sum(-1), torch.ones(3, dtype=torch.float64))
    assert (policy >= floors).all()


def test_floors_that_sum_to_one_leave_one_policy():
    q = torch.tensor([[5.0, 1.0, 0.0], [0.0, 0.0, 30.0]], dtype=torch.float64)
    torch.testing.assert_close(soft_policy_improvement(q, 0.1, PolicyClass(floor=1 / 3)), torch.full_like(q, 1 / 3))


def test_many_projections_at_once_are_each_by_itself():
    q = torch.randn(6, 4, 3, dtype=torch.float64)
    allowed = torch.rand(4, 3) < 0.6
    allowed[:, 1] = True
    within = PolicyClass(allowed, 0.2)
    together = soft_policy_improvement(q, 0.3, within)
    torch.testing.assert_close(together, torch.stack([soft_policy_improvement(one, 0.3, within) for one in q]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PolicyClass(torch.tensor([[True, False], [False, False]])), r"allowed\[1\] \(state\) is 0.0: "),
        (lambda: PolicyClass(torch.ones(2, 2)), "allowed.dtype=torch.float32 .*torch.bool"),
        (lambda: PolicyClass(floor=-0.1), "floor=-0.1"),
        (lambda: PolicyClass(floor=1.2), "floor=1.2"),
        (lambda: PolicyClass(floor=float("nan")), "floor=nan"),
        (lambda: soft_policy_improvement(torch.zeros(2, 2), 1.0, PolicyClass(floor=0.6)), r"floor\[0\] .* is 1.2"),
        (
            lambda: soft_policy_improvement(torch.zeros(2, 2), 1.0, PolicyClass(torch.ones(2, 3).bool())),
            r"allowed.shape=\[2, 3\] .*\[2, 2\]",
        ),
    ],
)  # fmt: skip
def test_a_class_without_policies_is_refused_in_one_line(make, message):
    with pytest.raises(UsageError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)
