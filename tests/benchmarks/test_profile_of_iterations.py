import pytest

pytest.importorskip("stable_baselines3")

from benchmarks import halfcheetah
from benchmarks.profile_iteration import NEEDED, OVERHEAD, IterationProfiler, overhead_share


def test_every_part_of_an_iteration_is_found_and_the_parts_add_up(monkeypatch):
    monkeypatch.setattr(halfcheetah, "LEARNING_STARTS", 20)
    profiler = IterationProfiler(warmup=1, iterations_per_batch=5)
    halfcheetah.run_ours(25, "32-true", [profiler], env_id="Pendulum-v1", compile=False, env_steps_per_batch=5)
    parts = profiler.microseconds()
    assert profiler.iterations == 20
    assert list(parts) == [*NEEDED, *OVERHEAD]
    assert all(us > 0 for us in parts.values())
    assert sum(parts.values()) == pytest.approx(profiler.total_nanoseconds / 1e3 / 20)


def test_a_nested_call_counts_for_the_inner_part_only():
    class Owner:
        def outer(self):
            return self.inner() + 1

        def inner(self):
            return sum(range(200_000))

    owner, profiler = Owner(), IterationProfiler(warmup=0)
    profiler._wrap(owner, "inner", "environment")
    profiler._wrap(owner, "outer", "vector env")
    assert owner.outer() == sum(range(200_000)) + 1
    assert 0 <= profiler.nanoseconds["vector env"] < profiler.nanoseconds["environment"]


def test_overhead_is_what_is_neither_learning_nor_acting():
    parts = {**dict.fromkeys(NEEDED, 18.0), "sampling": 1.0, "adding": 2.0, "vector env": 3.0, "the rest": 4.0}
    assert overhead_share(parts) == pytest.approx(0.1)
