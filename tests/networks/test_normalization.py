import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_lightning.errors import UsageError
from rl_lightning.networks.normalization import ObservationNormalizer, ReturnNormalizer, RunningMoments


def alone(tensor):
    """What one process alone gathers: itself."""
    return tensor.unsqueeze(0)


def batches_of(sizes, seed, shape=(3,)):
    """Batches whose means and deviations differ, so that what is between batches counts."""
    rng = np.random.default_rng(seed)
    return [
        torch.from_numpy(rng.normal(rng.normal(0, 3, shape), rng.uniform(0.1, 5, shape), (size, *shape))).float()
        for size in sizes
    ]


def assert_moments_of(moments, samples):
    samples = samples.double().numpy()
    np.testing.assert_allclose(moments.mean.numpy(), samples.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moments.var.numpy(), samples.var(0), rtol=1e-4, atol=1e-4)
    assert moments.count.item() == len(samples)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_running_moments_are_those_of_all_samples_whatever_the_batches(sizes, seed):
    moments, batches = RunningMoments((3,)), batches_of(sizes, seed)
    for number, batch in enumerate(batches, 1):
        moments.update(batch, alone)
        assert_moments_of(moments, torch.cat(batches[:number]))


class OtherProcesses:
    """Gathers this process' statistics with those of other processes' samples."""

    def __init__(self, *others):
        sizes = [torch.tensor([float(len(other))]) for other in others]
        self.own = [
            torch.cat([other.mean(0), other.var(0, correction=0), size])
            for other, size in zip(others, sizes, strict=True)
        ]

    def __call__(self, tensor):
        return torch.stack([tensor, *self.own])


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    others=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=40, deadline=None)
def test_moments_of_several_processes_are_those_of_all_their_samples_together(sizes, others, seed):
    per_process = [batches_of([size + 7 * i for size in sizes], seed + i) for i in range(1 + others)]
    moments = RunningMoments((3,))
    for mine, *theirs in zip(*per_process, strict=True):
        moments.update(mine, OtherProcesses(*theirs))
    assert_moments_of(moments, torch.cat([batch for batches in per_process for batch in batches]))


def test_a_single_sample_has_a_variance_of_zero_and_not_nan():
    moments = RunningMoments((2,))
    moments.update(torch.tensor([[3.0, -1.0]]), alone)
    assert moments.mean.tolist() == [3.0, -1.0]
    assert moments.var.tolist() == [0.0, 0.0]


def test_the_variance_of_samples_with_a_small_deviation_is_exact_from_the_first_batch_on():
    moments = RunningMoments(())
    samples = torch.randn(1000) * 1e-4
    moments.update(samples, alone)
    assert moments.var.item() == pytest.approx(samples.double().var(correction=0).item(), rel=1e-3)


def test_a_new_batch_counts_as_much_as_its_samples_however_many_came_before():
    moments = RunningMoments(())
    moments.count += 1e9  # of mean 0 and variance 1; float32 would no longer count up by one
    for _ in range(3):
        moments.update(torch.full((1,), 1e6), alone)
    assert moments.count.item() == 1e9 + 3
    assert moments.mean.item() == pytest.approx(3e6 / (1e9 + 3), rel=1e-4)


@pytest.mark.parametrize("samples", [torch.randn(5, 2), torch.randn(5, 2, requires_grad=True)])
def test_statistics_hold_no_graph_and_are_no_parameters(samples):
    moments = RunningMoments((2,))
    moments.update(samples, alone)
    assert not moments.mean.requires_grad
    assert not moments.var.requires_grad
    assert list(moments.parameters()) == []


MIXED = Dict(
    {
        "vector": Box(-np.inf, np.inf, (2,), np.float32),
        "image": Box(0, 255, (8, 8, 3), np.uint8),
        "pixels": Box(0, 1, (8, 8, 3), np.float32),
        "bytes": Box(0, 255, (4,), np.uint8),
        "map": Box(0, 255, (4, 4), np.uint8),
        "choice": Discrete(5),
        "switches": MultiBinary(3),
        "inner": Dict({"vector": Box(-1, 1, (3,), np.float64), "choice": Discrete(2)}),
    }
)


def mixed_observations(T, N, seed=0):  # noqa: N803
    rng = np.random.default_rng(seed)
    numbers = {
        "vector": rng.normal([5.0, -100.0], [2.0, 30.0], (T, N, 2)),
        "image": rng.integers(0, 256, (T, N, 8, 8, 3), np.uint8),
        "pixels": rng.random((T, N, 8, 8, 3)),
        "bytes": rng.integers(0, 256, (T, N, 4), np.uint8),
        "map": rng.integers(0, 256, (T, N, 4, 4), np.uint8),
        "choice": rng.integers(0, 5, (T, N)),
        "switches": rng.integers(0, 2, (T, N, 3), np.int8),
        "inner": {"vector": rng.normal(0.1, 0.01, (T, N, 3)), "choice": rng.integers(0, 2, (T, N))},
    }
    return as_learners_see(numbers)


def as_learners_see(value):
    if isinstance(value, dict):
        return {key: as_learners_see(part) for key, part in value.items()}
    tensor = torch.from_numpy(value)
    return tensor.float() if tensor.is_floating_point() else tensor


def test_real_vectors_of_a_dict_are_normalized_each_by_its_own_statistics():
    normalizer, obs = ObservationNormalizer(MIXED), mixed_observations(50, 4)
    normalizer.update(obs, alone)
    out = normalizer(obs)
    for before, after in ((obs["vector"], out["vector"]), (obs["inner"]["vector"], out["inner"]["vector"])):
        flat = before.flatten(0, 1).double()
        expected = (flat - flat.mean(0)) / flat.std(0, correction=0)
        torch.testing.assert_close(after.flatten(0, 1).double(), expected, rtol=1e-2, atol=1e-3)
        assert not torch.equal(before, after)


@pytest.mark.parametrize("shape", [(), (3,), (2, 4), (1, 1), (2, 1, 3, 2)])
@pytest.mark.parametrize("in_a_dict", [False, True])
def test_real_numbers_of_any_shape_but_an_images_are_normalized_element_by_element(shape, in_a_dict):
    space = Box(-np.inf, np.inf, shape, np.float64)
    numbers = torch.cat(batches_of([60, 60], 0, shape)).unflatten(0, (60, 2))
    flat = numbers.flatten(0, 1).double()
    normalizer = ObservationNormalizer(Dict({"inner": Dict({"box": space})}) if in_a_dict else space)
    obs = {"inner": {"box": numbers}} if in_a_dict else numbers
    normalizer.update(obs, alone)
    out = normalizer(obs)
    actual = out["inner"]["box"] if in_a_dict else out
    expected = ((flat - flat.mean(0)) / flat.std(0, correction=0)).view(60, 2, *shape)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3)


def test_images_and_whatever_is_not_a_real_vector_pass_untouched():
    normalizer, obs = ObservationNormalizer(MIXED), mixed_observations(20, 4)
    normalizer.update(obs, alone)
    out = normalizer(obs)
    assert list(out) == list(obs)
    for key in ("image", "pixels", "bytes", "map", "choice", "switches"):
        assert out[key] is obs[key], key
    assert out["inner"]["choice"] is obs["inner"]["choice"]
    assert len(normalizer.moments) == 2


@pytest.mark.parametrize("space", [Box(0, 255, (40, 40, 3), np.uint8), Discrete(4), MultiBinary(2)])
def test_a_space_without_real_vectors_is_refused(space):
    with pytest.raises(UsageError, match=r"^normalize_observations=True is not allowed with observation space "):
        ObservationNormalizer(space)


def test_any_leading_dimensions_are_normalized_alike():
    normalizer = ObservationNormalizer(Box(-np.inf, np.inf, (2,), np.float32))
    obs = torch.randn(7, 3, 2) * 4 + 9
    given = obs.clone()
    normalizer.update(obs, alone)
    assert torch.equal(normalizer(obs).flatten(0, 1), normalizer(obs.flatten(0, 1)))
    assert torch.equal(normalizer(obs)[2, 1], normalizer(obs[2, 1]))
    assert torch.equal(obs, given)


def test_observations_far_from_the_mean_are_clipped_on_both_sides():
    normalizer = ObservationNormalizer(Box(-np.inf, np.inf, (1,), np.float32), clip=2.0)
    normalizer.update(torch.tensor([[[1.0], [3.0]]]), alone)  # mean 2, deviation 1
    far = torch.tensor([[-1e6], [0.5], [2.0], [3.5], [1e6]])
    assert normalizer(far)[:, 0].tolist() == pytest.approx([-2.0, -1.5, 0.0, 1.5, 2.0])


def test_before_the_first_update_a_normalizer_only_clips():
    normalizer = ObservationNormalizer(Box(-np.inf, np.inf, (4,), np.float32))
    assert normalizer(torch.tensor([[1.5, -9.5, 250.0, -3000.0]])).tolist() == [[1.5, -9.5, 10.0, -10.0]]


def test_an_element_that_never_changes_is_zero_and_not_nan():
    normalizer = ObservationNormalizer(Box(-np.inf, np.inf, (2,), np.float32))
    obs = torch.stack([torch.full((6, 2), 7.0), torch.randn(6, 2)], -1)
    for _ in range(3):
        normalizer.update(obs, alone)
    assert normalizer(obs)[..., 0].abs().max() < 1e-2
    assert normalizer(obs).isfinite().all()


def test_normalizing_updates_nothing_in_train_mode_or_eval_mode():
    normalizer, obs = ObservationNormalizer(MIXED), mixed_observations(10, 2)
    normalizer.update(obs, alone)
    before = {key: value.clone() for key, value in normalizer.state_dict().items()}
    for mode in (True, False):
        normalizer.train(mode)
        normalizer(mixed_observations(10, 2, seed=1))
    assert all(torch.equal(value, before[key]) for key, value in normalizer.state_dict().items())


def test_a_normalizers_state_goes_through_a_checkpoint_and_continues_alike():
    one, other = ObservationNormalizer(MIXED), ObservationNormalizer(MIXED)
    one.update(mixed_observations(20, 3), alone)
    other.load_state_dict(one.state_dict())
    for seed in (1, 2):
        more = mixed_observations(20, 3, seed)
        mine, theirs = one(more), other(more)
        assert torch.equal(mine["vector"], theirs["vector"])
        assert torch.equal(mine["inner"]["vector"], theirs["inner"]["vector"])
        one.update(more, alone)
        other.update(more, alone)
    names = ("mean", "var", "count")
    assert set(one.state_dict()) == {f"moments.{index}.{name}" for index in (0, 1) for name in names}


def vec_normalize_loop(rollouts, gamma):
    """As VecNormalize does, one environment step at a time: R = γ R + r, then 0 where the episode ended."""
    running, returns = 0.0, []
    for reward, done in rollouts:
        for r, d in zip(reward.double().numpy(), done.numpy(), strict=True):
            running = gamma * running + r
            returns.append(running.copy())
            running[d] = 0.0
    return np.array(returns)


def rollouts_of(lengths, num_envs, seed, done_share=0.2):
    rng = np.random.default_rng(seed)
    return [
        (
            torch.from_numpy(rng.normal(0.5, 2.0, (length, num_envs))).float(),
            torch.from_numpy(rng.random((length, num_envs)) < done_share),
        )
        for length in lengths
    ]


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    num_envs=st.integers(1, 3),
    seed=st.integers(0, 10_000),
    gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_the_running_return_over_successive_rollouts_is_that_of_a_step_by_step_loop(lengths, num_envs, seed, gamma):
    rollouts, normalizer = rollouts_of(lengths, num_envs, seed), ReturnNormalizer(gamma)
    for number, (reward, done) in enumerate(rollouts, 1):
        normalizer.update(reward, done, alone)
        returns = vec_normalize_loop(rollouts[:number], gamma)
        np.testing.assert_allclose(normalizer.moments.mean.item(), returns.mean(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(normalizer.moments.var.item(), returns.var(), rtol=1e-3, atol=1e-3)
        assert normalizer.moments.count.item() == returns.size
        ends = np.where(done[-1].numpy(), 0.0, returns[-1])
        np.testing.assert_allclose(normalizer.carried.numpy(), ends, rtol=1e-4, atol=1e-4)


def test_the_running_return_is_the_one_computed_by_hand():
    normalizer = ReturnNormalizer(0.5)
    normalizer.update(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[False], [True], [False]]), alone)
    assert normalizer.carried.tolist() == [4.0]  # R: 1, 2.5, then a new episode's 4
    assert normalizer.moments.mean.item() == pytest.approx(7.5 / 3)
    normalizer.update(torch.tensor([[8.0]]), torch.tensor([[True]]), alone)
    assert normalizer.carried.tolist() == [0.0]  # R: 10
    assert normalizer.moments.mean.item() == pytest.approx(17.5 / 4)
    assert normalizer.moments.var.item() == pytest.approx(np.var([1, 2.5, 4, 10]))


def test_rewards_are_divided_by_the_returns_deviation_keep_their_sign_and_are_clipped():
    normalizer = ReturnNormalizer(0.0, clip=3.0)
    normalizer.update(torch.tensor([[10.0], [14.0]]), torch.zeros(2, 1, dtype=torch.bool), alone)  # deviation 2
    rewards = torch.tensor([[1.0, -1.0, 0.0, 100.0, -100.0]])
    assert normalizer(rewards)[0].tolist() == pytest.approx([0.5, -0.5, 0.0, 3.0, -3.0])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_scaled_rewards_do_not_depend_on_the_unit_of_rewards(scale):
    (reward, done), *_ = rollouts_of([400], 4, seed=0)
    outputs = []
    for unit in (1.0, scale):
        normalizer = ReturnNormalizer(0.99)
        for _ in range(2):
            normalizer.update(unit * reward, done, alone)
        outputs.append(normalizer(unit * reward))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=5e-3, atol=1e-4)


def test_returns_under_way_are_not_saved_and_their_statistics_are():
    normalizer = ReturnNormalizer(0.9)
    (reward, done), *_ = rollouts_of([30], 2, seed=3, done_share=0.0)
    normalizer.update(reward, done, alone)
    assert (normalizer.carried != 0).all()
    state = normalizer.state_dict()
    assert set(state) == {"moments.mean", "moments.var", "moments.count"}
    assert "carried" not in dict(normalizer.named_buffers()), "DDP gives all processes the buffers of the first"
    restored = ReturnNormalizer(0.9)
    restored.load_state_dict(state)
    assert torch.equal(restored(reward), normalizer(reward))
    assert restored.carried.tolist() == 0.0


def test_statistics_of_returns_are_those_of_all_processes():
    mine, theirs = rollouts_of([25, 10], 2, seed=0), rollouts_of([25, 10], 2, seed=1)
    normalizer, other = ReturnNormalizer(0.9), ReturnNormalizer(0.9)
    for (reward, done), (their_reward, their_done) in zip(mine, theirs, strict=True):
        calls = []
        other.update(their_reward, their_done, lambda tensor, calls=calls: (calls.append(tensor), alone(tensor))[1])
        normalizer.update(reward, done, lambda tensor, calls=calls: torch.stack([tensor, calls.pop(0)]))
    returns = np.concatenate([vec_normalize_loop(mine, 0.9), vec_normalize_loop(theirs, 0.9)])
    assert normalizer.moments.mean.item() == pytest.approx(returns.mean(), rel=1e-4)
    assert normalizer.moments.var.item() == pytest.approx(returns.var(), rel=1e-4)


def test_spaces_nested_twice_have_statistics_of_their_own_name():
    inner = Box(-1, 1, (1,), np.float32)
    space = gym.spaces.Dict({"a": Dict({"b": inner}), "ab": inner, "b": inner})
    normalizer = ObservationNormalizer(space)
    values = {"a": {"b": torch.full((2, 1, 1), 1.0)}, "ab": torch.full((2, 1, 1), 2.0), "b": torch.full((2, 1, 1), 3.0)}
    normalizer.update(values, alone)
    means = {path: m.mean.item() for path, m in zip(normalizer.paths, normalizer.moments, strict=True)}
    assert means == {("a", "b"): 1.0, ("ab",): 2.0, ("b",): 3.0}
