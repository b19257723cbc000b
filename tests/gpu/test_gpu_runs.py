"""A run goes on where it was saved, on a GPU or on the CPU; and nothing waits for a GPU that need not."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from learners import CASES, WITH_CRITIC, AtTheStart, called, data_of, leaves, made
from on_device import NORMALIZED, accelerator, run, without_waiting
from toys import fit, make_trainer

from rl_lightning import TRPO
from rl_lightning.data.replay.buffer import ReplayBuffer
from rl_lightning.types import to_device

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
each = pytest.mark.parametrize("case", [*CASES, *WITH_CRITIC, NORMALIZED], ids=called)
OFF_POLICY = [case for case in CASES if "buffer_size" in case.data]
each_off_policy = pytest.mark.parametrize("case", OFF_POLICY, ids=called)


def same_numbers(one, other):
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(leaves(one), leaves(other), strict=True))


@each
@pytest.mark.parametrize("to_cpu", [True, False], ids=["from_gpu_to_cpu", "from_cpu_to_gpu"])
def test_a_saved_run_goes_on_elsewhere_from_the_same_weights_moments_and_counters(case, to_cpu, device, tmp_path):
    here, there = (device, CPU) if to_cpu else (CPU, device)
    data, path = data_of(case), tmp_path / "saved.ckpt"
    fit(made(case, data), data, trainer := make_trainer(accelerator=accelerator(here)))
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True, map_location="cpu")
    data = data_of(case, total_env_steps=2 * case.data["total_env_steps"])
    model, start = made(case, data), AtTheStart()
    make_trainer([start], accelerator=accelerator(there)).fit(model, data, ckpt_path=path)
    assert {tensor.device.type for tensor in start.weights.values()} == {there.type}
    assert same_numbers(start.weights, [saved["state_dict"][name] for name in start.weights])
    assert start.moments
    assert same_numbers(start.moments, [optimizer["state"] for optimizer in saved["optimizer_states"]])
    assert start.counters == (saved["rl_lightning"]["env_steps"], saved["rl_lightning"]["gradient_steps"])
    assert model.env_steps >= 2 * case.data["total_env_steps"]
    assert model.gradient_steps > start.counters[1]
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("on_device", [(True, False), (False, True), (True, True)], ids=str)
def test_a_buffer_on_the_device_is_saved_and_comes_back_wherever_it_is_to_live(on_device, device, tmp_path):
    case, path, trainers = OFF_POLICY[0], tmp_path / "saved.ckpt", [make_trainer(accelerator=accelerator(device))]
    first = data_of(case, buffer_on_device=on_device[0])
    fit(made(case, first), first, trainers[0])
    trainers[0].save_checkpoint(path)
    expected = first.buffer.state_dict()["memory"].clone()
    then = data_of(case, total_env_steps=2 * case.data["total_env_steps"], buffer_on_device=on_device[1])

    class AsItWas(AtTheStart):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.memory = getattr(self, "memory", then.buffer.state_dict()["memory"].clone())

    start = AsItWas()
    make_trainer([start], accelerator=accelerator(device)).fit(made(case, then), then, ckpt_path=path)
    assert then.buffer.storage.reward.device.type == (device.type if on_device[1] else "cpu")
    # but for the newest step, at which the episode under way ends
    assert torch.equal(start.memory[: len(expected) - 1], expected[:-1])


def filled(device, n_step, frame_stack, priority_alpha, steps=70, num_envs=3, rows=32):
    """A ring that has gone round, from the same episodes."""
    rng = np.random.default_rng(0)
    shape = (frame_stack, 6) if frame_stack > 1 else (6,)
    spaces = Box(-1.0, 1.0, shape, np.float32), Box(-1.0, 1.0, (2,), np.float32)
    kept = rows * num_envs
    buffer = ReplayBuffer(kept, num_envs, *spaces, 5, n_step, frame_stack, priority_alpha, device)

    def first():
        frame = rng.uniform(-1, 1, (num_envs, 6)).astype(np.float32)
        return np.repeat(frame[:, None], frame_stack, axis=1) if frame_stack > 1 else frame

    obs = first()
    for _ in range(steps):
        frame = rng.uniform(-1, 1, (num_envs, 6)).astype(np.float32)
        next_obs = np.concatenate([obs[:, 1:], frame[:, None]], axis=1) if frame_stack > 1 else frame
        terminated, truncated = rng.random((2, num_envs)) < 0.1
        action, reward = rng.uniform(-1, 1, (num_envs, 2)), rng.normal(size=num_envs)
        buffer.add(obs, action, reward, next_obs, terminated, truncated)
        done = (terminated | truncated).reshape(-1, *[1] * len(shape))
        obs = np.where(done, first(), next_obs)
    return buffer


KINDS = [(1, 1, 0.0), (3, 1, 0.0), (1, 4, 0.0), (3, 4, 0.0), (1, 1, 0.6), (3, 4, 0.6)]
each_kind = pytest.mark.parametrize(("n_step", "frame_stack", "priority_alpha"), KINDS)


@each_kind
def test_a_buffer_on_the_device_draws_what_one_in_memory_draws(n_step, frame_stack, priority_alpha, device):
    (expected, drawn), (actual, numbers) = (
        filled(where, n_step, frame_stack, priority_alpha).sample(3, 16, gamma=0.9, beta=0.5) for where in (CPU, device)
    )
    assert torch.equal(numbers, drawn)
    assert {field.device.type for field in actual} == {device.type}
    for name, field in actual._asdict().items():
        torch.testing.assert_close(field.cpu(), getattr(expected, name), msg=name)


@each_kind
def test_adding_to_a_buffer_on_the_device_and_drawing_from_it_waits_for_nothing(
    n_step, frame_stack, priority_alpha, device
):
    buffer = filled(device, n_step, frame_stack, priority_alpha)
    obs = np.zeros((3, *buffer.sample(1, 1, 0.9)[0].obs.shape[2:]), np.float32)
    no = np.zeros(3, bool)
    with without_waiting(device):
        buffer.add(obs, np.zeros((3, 2)), np.zeros(3), obs, no, no)
        if not (n_step > 1 and frame_stack > 1):  # which frames are the last ones' is known on the CPU alone
            buffer.sample(2, 8, 0.9)


@each_off_policy
def test_a_run_with_its_buffer_on_the_device_is_the_run_with_its_buffer_in_memory(case, device):
    expected = run(case, "vector", device)
    actual = run(case, "vector", device, data={"buffer_on_device": True})
    torch.testing.assert_close(actual.weights, expected.weights, rtol=1e-5, atol=1e-6)
    assert [row.keys() for row in actual.rows] == [row.keys() for row in expected.rows]


@each
def test_a_gradient_step_waits_for_nothing(case, device):
    if case.learner is TRPO:
        pytest.skip("its conjugate gradients and line search look at numbers")
    data = data_of(case)
    model = made(case, data)

    def guarded(method):
        def call(*args):
            with without_waiting(device):
                return method(*args)

        return call

    for name in ("compute", "step", "end_gradient_step"):
        setattr(model, name, guarded(getattr(model, name)))
    fit(model, data, make_trainer(accelerator=accelerator(device)))
    assert model.gradient_steps > 0


@each
def test_acting_waits_for_nothing_until_its_actions_are_taken_off_the_device(case, device):
    data = data_of(case)
    model = made(case, data)
    act, times = model.act, []

    def guarded(obs, deterministic=False):
        times.append(model.env_steps)
        with without_waiting(device):
            return act(obs, deterministic)

    model.act = guarded
    fit(model, data, make_trainer(accelerator=accelerator(device)))
    assert times


def test_a_rollout_and_one_observation_go_to_the_device_without_waiting(device):
    obs = {"vector": torch.randn(2, 3), "number": torch.arange(2)}
    with without_waiting(device):
        moved = to_device(obs, device)
    for name, tensor in obs.items():
        assert moved[name].device.type == device.type
        assert torch.equal(moved[name].cpu(), tensor)
    tensor = torch.zeros(1_000_000)
    moved = to_device(tensor, device)
    tensor.fill_(1.0)  # memory is free to be used again
    assert moved.cpu().sum().item() == (0.0 if device.type == "cuda" else 1_000_000.0)
