"""The folder of an exported policy: what is in it, that it is whole or not there, and that nothing else is lost."""

import json
import os
import re
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from test_load import Own, line_of
from toys import make_trainer
from trained import trained

from rl_lightning import PPO, SAC, UsageError, export_policy, load_policy
from rl_lightning.cli.main import main
from rl_lightning.policies import folder as folders


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one = trained(PPO, "Odd-v0", {"length": 7}, normalize_observations=True)
    trainer = make_trainer(validate=True)
    trainer.validate(one.model, datamodule=one.data, verbose=False)
    return one._replace(trainer=trainer).save(tmp_path_factory.mktemp("run") / "last.ckpt")


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    return export_policy(checkpoint, checkpoint.parent / "exported")


def test_the_description_says_what_it_is_in_strict_json(exported: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    said = json.loads((exported / "policy.json").read_text(), parse_constant=refuse)
    assert (said["format"], said["schema"], said["algorithm"]) == ("rl_lightning policy", 1, "PPO")
    assert (said["env_id"], said["env_kwargs"]) == ("Odd-v0", {"length": 7})
    bounds = {"low": [-1.0, 0.0], "high": [3.0, 10.0]}
    assert said["action_space"] == {"kind": "box", "shape": [2], "dtype": "float64", **bounds}
    assert said["observation_space"]["spaces"]["vector"]["low"] is None, "unbounded"
    assert said["network"]["normalizer_clip"] == 10.0
    assert said["training"]["env_steps"] == 16
    assert said["training"]["gradient_steps"] > 0
    assert said["training"]["evaluation"]["val/return_mean"] < 0.0
    assert said["versions"].keys() == {"rl_lightning", "torch", "gymnasium", "numpy", "python"}
    content = (exported / "policy.safetensors").read_bytes()
    assert said["weights"] == {
        "file": "policy.safetensors",
        "sha256": sha256(content).hexdigest(),
        "bytes": len(content),
    }
    assert {"policy.1.body.0.weight", "normalizer.moments.0.mean"} <= load_file(exported / "policy.safetensors").keys()


def test_the_card_has_the_front_matter_of_a_model_card_and_code_that_runs(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, front, text = (exported / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["library_name"] == "rl_lightning"
    assert {"reinforcement-learning", "PPO", "Odd-v0"} <= {*said["tags"]}
    [result] = said["model-index"][0]["results"]
    assert result["dataset"] == {"name": "Odd-v0", "type": "Odd-v0"}
    assert re.fullmatch(r"-\d+\.\d\d ± \d+\.\d\d", result["metrics"][0]["value"])
    monkeypatch.chdir(exported)
    use, play = re.findall(r"```python\n(.*?)```", text, re.S)
    env = gym.make("Odd-v0")
    names: dict[str, Any] = {"obs": env.reset(seed=0)[0]}
    exec(use, names)
    exec(play, names)
    assert env.action_space.contains(names["action"])
    assert names["total"] < 0.0


def test_a_folder_that_exists_is_kept_unless_it_is_an_export_and_overwrite_is_given(
    exported: Path, tmp_path: Path
) -> None:
    other = export_policy(trained(SAC, "Pendulum-v1").save(tmp_path / "last.ckpt"), tmp_path / "other")
    with pytest.raises(UsageError, match="it exists already; give another folder, or --overwrite") as refused:
        export_policy(exported, other)
    line_of(refused)
    assert load_policy(other).description["algorithm"] == "SAC"
    export_policy(exported, other, overwrite=True)
    assert load_policy(other).description["algorithm"] == "PPO"
    (other / "notes.txt").write_text("mine")
    for taken in (other, tmp_path, tmp_path / "last.ckpt"):
        with pytest.raises(UsageError, match="it exists and is no export alone"):
            export_policy(exported, taken, overwrite=True)
    assert (other / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "other"], "nothing is left beside it"


def test_an_export_that_fails_leaves_what_was_there_and_nothing_half_done(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = export_policy(exported, tmp_path / "old")
    with monkeypatch.context() as patched:
        patched.setattr(folders, "card", lambda description: os.listdir("/nowhere"))
        with pytest.raises(UsageError, match="cannot be written"):
            export_policy(exported, old, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    load_policy(old)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written: .*; give another folder") as refused:
        export_policy(exported, tmp_path / "file/exported")
    line_of(refused)


def test_an_export_is_as_readable_as_any_folder_that_is_made(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert exported.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_learner_in_memory_is_exported_as_its_checkpoint_is(tmp_path: Path) -> None:
    one = trained(SAC, "Pendulum-v1")
    folders = (
        export_policy(one.model, tmp_path / "memory"),
        export_policy(one.save(tmp_path / "a.ckpt"), tmp_path / "b"),
    )
    for name in ("policy.json", "policy.safetensors", "README.md"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    with pytest.raises(UsageError, match="is no layer that is known by name"):
        export_policy(trained(SAC, "Pendulum-v1", network=Own).model, tmp_path / "own")


def test_the_command_exports_and_says_how_to_go_on(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", str(checkpoint), f"--to={tmp_path / 'out'}"])
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"Exported: {tmp_path / 'out'}"
    call = re.search(r"rl_lightning\.(load_policy\(.*?\))", out)
    assert call
    policy = eval(call[1], {"load_policy": load_policy})
    assert policy.description["algorithm"] == "PPO"
    for arguments, words in (
        ([str(checkpoint)], "the following arguments are required: --to"),
        ([str(checkpoint), f"--to={tmp_path}", "--form=onnx"], "unrecognized arguments: --form=onnx"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["export", *arguments])
        assert end.value.code == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert words in line
    with pytest.raises(SystemExit) as end:
        main(["export", str(checkpoint), f"--to={tmp_path / 'new'}", "--format=pickle"])
    assert end.value.code == "error: format='pickle' is not allowed: give one of safetensors, onnx"


def test_a_policy_comes_from_a_hub_by_one_call_of_its_client(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    client = SimpleNamespace(snapshot_download=lambda *given, **named: asked.append((given, named)) or str(exported))
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    policy = load_policy("hf://someone/pendulum")
    assert asked == [(("someone/pendulum",), {"allow_patterns": ["policy.json", "policy.safetensors", "policy.onnx"]})]
    obs = {"vector": np.zeros(2), "a.b": {"switches": np.zeros(2, np.int8), "count": 0}}
    np.testing.assert_array_equal(policy(obs), load_policy(exported)(obs))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="pip install huggingface_hub") as refused:
        load_policy("hf://someone/pendulum")
    line_of(refused)
