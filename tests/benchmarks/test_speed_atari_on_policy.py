from types import SimpleNamespace

import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("ale_py")
pytest.importorskip("cv2")

from benchmarks import atari_on_policy as program

ENVS, STEPS = 2, 4


@pytest.fixture(autouse=True)
def short(monkeypatch):
    rollout = ENVS * STEPS
    for name, value in (("NUM_ENVS", ENVS), ("ROLLOUT_STEPS", STEPS), ("ROLLOUT", rollout), ("WARMUP", rollout)):
        monkeypatch.setattr(program, name, value)
    monkeypatch.setattr(program, "BATCH_SIZE", 4)
    monkeypatch.setattr(
        "rl_lightning.algorithms.shared.computing.compiled_or_eager", lambda gradients, device: gradients
    )


@pytest.mark.parametrize("library", ["ours, sync", "SB3"])
def test_both_libraries_are_timed_over_the_same_rollouts(library, monkeypatch):
    monkeypatch.setattr(program, "rate", lambda marks, warmup: [steps for steps, _ in marks if steps >= warmup])
    assert program.measured(library, rollouts=2, stepping=False) == [8, 16, 24]


@pytest.mark.parametrize("library", ["ours, sync", "SB3"])
def test_steps_of_every_environment_are_counted_between_the_two_looks_at_the_clock(library, monkeypatch):
    monkeypatch.setattr(program, "STEPPED", 10)
    monkeypatch.setattr(program, "time", SimpleNamespace(perf_counter=iter([3.0, 5.0]).__next__))
    assert program.measured(library, rollouts=0, stepping=True) == 10 * ENVS / (5.0 - 3.0)


def test_ratios_are_of_runs_of_one_round():
    rates = {"ours, sync": [200.0, 90.0], "ours, envpool": [300.0, 120.0], "SB3": [100.0, 30.0]}
    rows = program.report(rates, stepping=True, threads=1).splitlines()
    assert rows[-3] == "| ours, sync | 145 [90, 200] | 2.5 [2, 3] |"
    assert rows[-2] == "| ours, envpool | 210 [120, 300] | 3.5 [3, 4] |"
    assert rows[-1] == "| SB3 | 65 [30, 100] | 1 [1, 1] |"
