import pytest

pytest.importorskip("stable_baselines3")

from benchmarks import off_policy, throughput


@pytest.mark.parametrize("run", [off_policy.run_ours, off_policy.run_sb3])
@pytest.mark.parametrize("name", ["dqn-cartpole", "ddpg-halfcheetah", "td3-halfcheetah", "sac-halfcheetah"])
def test_both_libraries_run_and_report_their_speed(name, run, monkeypatch):
    if "halfcheetah" in name:
        pytest.importorskip("mujoco")
    env_id = off_policy.TASKS[name].env_id
    task = off_policy.Task(env_id, (8, 8), 16, 4, 0.5, env_steps_per_batch=8, warmup=40, steps=80)
    monkeypatch.setitem(off_policy.TASKS, name, task)
    monkeypatch.setattr(off_policy, "LEARNING_STARTS", 16)
    marks = run(name)
    assert marks[-1][0] == 120
    assert throughput.rate(marks, task.warmup) > 0
