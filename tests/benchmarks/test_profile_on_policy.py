import sys

import pytest

pytest.importorskip("stable_baselines3")

from benchmarks import on_policy
from benchmarks import profile_on_policy as profile
from rl_lightning import A2C, PPO, Algorithm


def test_every_part_is_timed_and_the_table_adds_up(monkeypatch, capsys):
    task = on_policy.Task("CartPole-v1", 8, 5, 40, warmup=80, steps=160)
    monkeypatch.setitem(on_policy.TASKS, "a2c-cartpole", task)
    monkeypatch.setattr(sys, "argv", ["profile_on_policy", "a2c-cartpole"])
    for owner, name in (
        (profile.computing, "compiled_or_eager"),
        (profile.data, "make_vec_env"),
        (A2C, "act"),
        (PPO, "act"),
        (Algorithm, "step"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # what `main` wraps is itself again afterwards
    profile.main()
    table = capsys.readouterr().out.split("| --- | --- | --- |\n")[1]
    rows = dict(row.strip("| ").split(" | ")[:2] for row in table.splitlines())
    timed = ["environments", "policy", "gradients (compiled)", "optimizers"]
    assert {*rows} == {*timed, "everything else", "all"}
    assert all(float(rows[part]) > 0 for part in timed)
    assert float(rows.pop("all")) == pytest.approx(sum(map(float, rows.values())), abs=0.5)
