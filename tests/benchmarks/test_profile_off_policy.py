from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("stable_baselines3")

from benchmarks import off_policy
from benchmarks import profile_off_policy as profile
from benchmarks.profile_off_policy import NEEDED, OVERHEAD, ProductRecorder, StepProfiler, overhead_share


@pytest.fixture
def small(monkeypatch):
    task = off_policy.Task("CartPole-v1", (8, 16), 32, 2, 0.5, env_steps_per_batch=8, warmup=24, steps=40)
    monkeypatch.setitem(off_policy.TASKS, "dqn-cartpole", task)
    monkeypatch.setattr(off_policy, "LEARNING_STARTS", 16)


def test_every_part_of_an_environment_step_is_found_and_the_parts_add_up(small):
    profiler = StepProfiler(warmup=24)
    profile.train("dqn-cartpole", profiler, compile=False)
    parts = profiler.microseconds()
    assert profiler.env_steps == 40  # of 64: 16 random, 8 before the sums start
    assert list(parts) == [*NEEDED, *OVERHEAD]
    assert all(us > 0 for us in parts.values())
    assert sum(parts.values()) == pytest.approx(profiler.total_nanoseconds / 1e3 / 40)


def test_a_nested_call_counts_for_the_inner_part_only():
    class Owner:
        def outer(self):
            return self.inner() + 1

        def inner(self):
            return sum(range(200_000))

    owner, profiler = Owner(), StepProfiler(warmup=0)
    profiler._wrap(owner, "inner", "environment")
    profiler._wrap(owner, "outer", "vector env")
    assert owner.outer() == sum(range(200_000)) + 1
    assert 0 <= profiler.nanoseconds["vector env"] < profiler.nanoseconds["environment"]


def test_overhead_is_what_is_neither_learning_nor_acting():
    parts = {**dict.fromkeys(NEEDED, 18.0), "sampling": 1.0, "adding": 2.0, "vector env": 3.0, "the rest": 4.0}
    assert overhead_share(parts) == pytest.approx(0.1)


def test_the_products_of_one_batch_are_counted_by_size(small):
    recorder = ProductRecorder()
    profile.train("dqn-cartpole", recorder, compile=False)
    assert recorder.env_steps == 8  # one batch of 8, a gradient step for every second: 4
    # Q(s) and Q_θ̄(s') forward, the weights' gradients, and the inputs' of all layers but the first
    assert recorder.per_env_step() == 0.5 * (3 + 3 + 3 + 2)
    assert recorder.per_env_step((32, 8, 16)) == 0.5 * 2  # the second layer, twice forward
    assert recorder.per_env_step((16, 32, 8)) == 0.5  # its weights' gradient
    assert recorder.microseconds(repeats=2) > 0


def test_a_product_is_repeated_with_the_shapes_and_strides_it_had(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "mm", lambda left, right, out: seen.append((left.stride(), right.shape, out.shape)))
    recorder = ProductRecorder()
    recorder.products[((2, 3), (1, 2), (3, 4), (4, 1))] = 6
    recorder.env_steps = 2
    monkeypatch.setattr(profile, "summarize", lambda times: SimpleNamespace(median=7.0))
    assert recorder.microseconds(repeats=3) == 6 * 7.0 / 2
    assert seen == [((1, 2), (3, 4), (2, 4))] * 3
