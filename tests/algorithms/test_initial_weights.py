"""Weights to start from: which parts are taken, from which learner, and what is said where they do not fit."""

import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import TINY, fit

from rl_lightning import (
    A2C,
    DDPG,
    DQN,
    MLP,
    PPO,
    SAC,
    TD3,
    TRPO,
    ReplayDataModule,
    SACv2,
    SoftQ,
    UsageError,
    export_policy,
    load_policy,
)
from rl_lightning import RolloutDataModule as Rollouts

ON_POLICY = (PPO, A2C, TRPO)
DISCRETE = (DQN, SoftQ)


def data_of(learner: type, obs: str = "vector") -> Any:
    env = ("toys:Spaces-v0", {"obs": obs, "action": "discrete" if learner in DISCRETE else "box"})
    if learner in ON_POLICY:
        return Rollouts(*env, num_envs=2, rollout_steps=5, total_env_steps=20)
    return ReplayDataModule(*env, learning_starts=12, total_env_steps=16, batch_size=8, buffer_size=100)


def made(learner: type, obs: str = "vector", **settings: Any) -> Any:
    data = data_of(learner, obs)
    batch = {"batch_size": 5} if learner in (PPO, TRPO) else {}
    given = {"network": TINY, "compile": False, **batch, **settings}
    return learner(data.observation_space, data.action_space, **given)


Saved = Callable[..., Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The checkpoint of a tiny run of any learner, made once."""
    folder = tmp_path_factory.mktemp("runs")

    def of(learner: type, **settings: Any) -> Path:
        path = folder / f"{learner.__name__}{'-'.join(settings)}.ckpt"
        if not path.exists():
            fit(made(learner, **settings), data_of(learner)).save_checkpoint(path)
        return path

    return of


def state_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def in_file(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


NORMALIZED = {"normalize_observations": True, "normalize_returns": True}
LOOSE = {"ent_coef": 0.3, "ent_coef_optimizer": None}


@pytest.mark.parametrize(
    ("learner", "settings", "parts", "prefixes"),
    [
        (SAC, {}, ["policy"], ("policy.",)),
        (SAC, {}, ["q", "value"], ("q.", "value.", "target_value.")),
        (SACv2, {}, ["q"], ("q.", "target_q.")),
        (SACv2, {}, ["temperature"], ("temperature.",)),
        (TD3, {}, ["policy"], ("policy.", "target_policy.")),
        (PPO, NORMALIZED, ["normalizers"], ("networks.normalizer.", "networks.return_normalizer.")),
        (PPO, NORMALIZED, ["policy"], ("networks.policy.",)),
        (TRPO, {}, ["policy"], ("networks.policy.",)),
        (TRPO, {}, ["value"], ("networks.value.",)),
    ],
)
def test_the_parts_that_are_named_come_with_their_targets_and_the_rest_stays(
    saved: Saved, learner: type, settings: dict[str, Any], parts: list[str], prefixes: tuple[str, ...]
) -> None:
    path = saved(learner, **settings)
    there, model = in_file(path), made(learner, **settings)
    before = state_of(model)
    model.load_weights(path, parts=parts)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (there if name.startswith(prefixes) else before)[name]), name
    assert any(not torch.equal(before[name], there[name]) for name in before if name.startswith(prefixes))


@pytest.mark.parametrize(
    ("source", "learner", "parts"),
    [
        (SAC, SACv2, ["policy"]),
        (SACv2, SAC, ["policy", "q"]),
        (TD3, SACv2, ["q"]),
        (TD3, DDPG, ["policy"]),
        (DDPG, TD3, ["policy"]),
        (DQN, SoftQ, ["q"]),
        (SoftQ, DQN, ["q"]),
        (PPO, A2C, ["policy", "value"]),
        (A2C, TRPO, ["policy"]),
        (TRPO, PPO, ["value", "policy"]),
    ],
)
def test_parts_of_another_learner_are_taken_where_their_tensors_fit(
    saved: Saved, source: type, learner: type, parts: list[str]
) -> None:
    teacher, model = made(source), made(learner)
    teacher.load_weights(saved(source))
    model.load_weights(saved(source), parts=parts)
    obs = torch.randn(5, 2)
    if "q" in parts and learner not in DISCRETE:
        action = torch.randn(5, 2)
        assert torch.equal(torch.stack(model.q(obs, action)), torch.stack(teacher.q(obs, action)))
    if "policy" in parts or learner in DISCRETE:
        assert torch.equal(model.act(obs, deterministic=True), teacher.act(obs, deterministic=True))
    if "value" in parts:
        assert torch.equal(model.networks.values(obs), teacher.networks.values(obs))


def test_a_target_that_the_other_learner_has_not_begins_as_a_copy(saved: Saved) -> None:
    model, there = made(SACv2), in_file(saved(SAC))
    model.load_weights(saved(SAC), parts=["q"])
    state = model.state_dict()
    for name in (name for name in state if name.startswith("q.")):
        assert torch.equal(state[name], there[name])
        assert torch.equal(state[f"target_{name}"], there[name])


def refusal(model: Any, path: Path, parts: list[str] | None = None) -> str:
    """The message; nothing has changed."""
    before = state_of(model)
    with pytest.raises(UsageError) as caught:
        model.load_weights(path, parts)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_of_another_learner_is_refused_with_the_parts_that_would_fit(saved: Saved) -> None:
    path = saved(SAC)
    assert refusal(made(SACv2), path) == (
        f"checkpoint {str(path)!r} is of algorithm SAC, this run has SACv2: give a checkpoint of the same, or change "
        "env_id or model; of this one q, policy would fit: give init_parts=[q,policy]"
    )
    path = saved(PPO)
    assert refusal(made(SAC), path) == (
        f"checkpoint {str(path)!r} is of algorithm PPO, this run has SAC: give a checkpoint of the same, or change "
        "env_id or model"
    )


def test_networks_that_differ_are_listed_with_both_shapes(saved: Saved) -> None:
    path = saved(SAC)
    wide = partial(MLP, hidden_sizes=(9,))
    assert refusal(made(SAC, network=wide), path, ["policy"]) == (
        f"init_from={str(path)!r} holds other networks than this run's: policy.body.0.weight: [8, 2] there, [9, 2] "
        "here; policy.body.0.bias: [8] there, [9] here; policy.body.2.weight: [4, 8] there, [4, 9] here; give the "
        "network it was trained with"
    )
    # a layer of 9 and two tensors around it in each of V, its target, Q1, Q2 and π: 15 differences
    assert refusal(made(SAC, network=wide), path).endswith("; and 11 more; give the network it was trained with")
    deep = partial(MLP, hidden_sizes=(8, 8))
    assert "policy.body.2.weight: [4, 8] there, [8, 8] here; " in refusal(made(SAC, network=deep), path, ["policy"])
    assert "policy.body.4.weight: none there, [4, 8] here; " in refusal(made(SAC, network=deep), path, ["policy"])
    flat = partial(MLP, hidden_sizes=())
    assert "policy.body.2.weight: [4, 8] there, none here" in refusal(made(SAC, network=flat), path, ["policy"])


def test_normalizers_that_only_one_side_has_are_a_difference(saved: Saved) -> None:
    assert "networks.normalizer.moments.0.mean: [2] there, none here" in refusal(made(PPO), saved(PPO, **NORMALIZED))
    assert "networks.normalizer.moments.0.mean: none there, [2] here" in refusal(made(PPO, **NORMALIZED), saved(PPO))


@pytest.mark.parametrize("parts", [None, ["policy"]])
def test_spaces_that_differ_are_listed(saved: Saved, parts: list[str] | None) -> None:
    path = saved(SAC)
    data = ReplayDataModule("Pendulum-v1", total_env_steps=16, learning_starts=12, batch_size=8)
    model = SAC(data.observation_space, data.action_space, network=TINY, compile=False)
    assert refusal(model, path, parts) == (
        f"checkpoint {str(path)!r} is of observation space Box(2,) float64, this run has Box(3,) float32; of action "
        "space Box(2,) float32, this run has Box(1,) float32: give a checkpoint of the same, or change env_id or model"
    )


@pytest.mark.parametrize(("parts", "said"), [(["polcy", "q"], ["polcy"]), (["normalizers"], ["normalizers"]), ([], [])])
def test_parts_that_there_are_not_are_refused_with_those_there_are(
    saved: Saved, parts: list[str], said: list[str]
) -> None:
    assert refusal(made(SAC), saved(SAC), parts) == (
        f"init_parts={said!r} is not allowed: SAC has the parts value, q, policy; give some of them, or leave it out "
        "for all"
    )


@pytest.mark.parametrize(("given", "expected"), [(None, 0.3), (0.05, 0.05)], ids=["none given", "given"])
def test_a_temperature_that_is_given_wins_over_the_part_that_is_named(
    saved: Saved, given: float | None, expected: float
) -> None:
    model = made(SACv2, ent_coef=given)
    model.load_weights(saved(SACv2, **LOOSE), parts=["temperature", "policy"])
    assert model.temperature().item() == pytest.approx(expected, rel=1e-6)


def test_a_run_folder_is_its_best_checkpoint_or_else_its_last(saved: Saved, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert refusal(made(SAC), tmp_path) == (
        f"init_from={str(tmp_path)!r} is not allowed: the folder has no checkpoints/best.ckpt or "
        "checkpoints/last.ckpt; give a run's, or a file"
    )
    (folder / "last.ckpt").write_bytes(saved(SAC).read_bytes())
    model = made(SAC)
    model.load_weights(tmp_path)
    assert torch.equal(model.state_dict()["policy.body.0.weight"], in_file(saved(SAC))["policy.body.0.weight"])
    (folder / "best.ckpt").write_bytes(saved(TD3).read_bytes())
    with pytest.raises(UsageError, match=re.escape("is of algorithm TD3, this run has SAC")):
        model.load_weights(tmp_path)


@pytest.fixture(scope="module")
def exported(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The export of a tiny run of any learner, made once."""
    root = tmp_path_factory.mktemp("exports")

    def of(learner: type, **settings: Any) -> Path:
        folder = root / f"{learner.__name__}{'-'.join(settings)}"
        return folder if folder.exists() else export_policy(saved(learner, **settings), folder)

    return of


@pytest.mark.parametrize(
    ("source", "learner", "settings", "parts", "prefixes"),
    [
        (SAC, SAC, {}, None, ("policy.",)),
        (SAC, SACv2, {}, ["policy"], ("policy.",)),
        (TD3, TD3, {}, None, ("policy.", "target_policy.")),
        (DDPG, TD3, {}, ["policy"], ("policy.", "target_policy.")),
        (DQN, DQN, {}, None, ("q.", "target_q.")),
        (SoftQ, DQN, {}, ["q"], ("q.", "target_q.")),
        (PPO, PPO, NORMALIZED, None, ("networks.policy.", "networks.normalizer.")),
        (PPO, PPO, NORMALIZED, ["normalizers"], ("networks.normalizer.",)),
        (PPO, TRPO, {}, ["policy"], ("networks.policy.",)),
    ],
)
def test_an_export_gives_its_policy_and_statistics_of_observations_and_the_rest_stays(
    saved: Saved,
    exported: Saved,
    source: type,
    learner: type,
    settings: dict[str, Any],
    parts: list[str] | None,
    prefixes: tuple[str, ...],
) -> None:
    there, model = in_file(saved(source, **settings)), made(learner, **settings)
    before = state_of(model)
    model.load_weights(exported(source, **settings), parts)
    for name, tensor in model.state_dict().items():
        if name.startswith(prefixes):
            online = name.removeprefix("target_")
            assert torch.equal(tensor, there[online]), name
            assert tensor.dtype == before[name].dtype
        else:
            assert torch.equal(tensor, before[name]), name
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    if parts != ["normalizers"]:
        obs = torch.randn(5, 2)
        policy = load_policy(exported(source, **settings)).network
        assert policy is not None
        assert torch.equal(model.act(obs, deterministic=True), policy(obs))


@pytest.mark.parametrize(
    ("source", "learner", "settings", "parts", "message"),
    [
        (
            SAC,
            SAC,
            {},
            ["policy", "q"],
            r"^init_parts=\['q'\] is not allowed: '.*' is an export, which holds policy alone$",
        ),
        (PPO, PPO, {}, ["value"], "^init_parts=.*which holds policy alone$"),
        (
            SAC,
            SACv2,
            {},
            None,
            r"of algorithm SAC, this run has SACv2: .*; of this one policy would fit: give init_parts=\[policy\]$",
        ),
        (DQN, SAC, {}, ["policy"], "is of action space Discrete.*, this run has Box"),
        (
            SAC,
            SAC,
            {"network": partial(MLP, hidden_sizes=(8, 8))},
            None,
            r"policy\.body\.2\.weight: \[4, 8\] there, \[8, 8\] here; .*body\.4\.weight: none there, \[4, 8\] here",
        ),
        (
            SAC,
            SAC,
            {"network": partial(MLP, hidden_sizes=(8,), activation="elu")},
            None,
            r"^init_from='.*' is not allowed: its layers are squashed_gaussian \[linear\(bias=True\), relu, .*, this "
            r"run's are squashed_gaussian \[linear\(bias=True\), elu\(alpha=1\.0\), linear\(bias=True\)\]; give the",
        ),
        (
            PPO,
            PPO,
            {"normalize_observations": True},
            None,
            r"networks\.normalizer\.moments\.0\.mean: none there, \[2\] here",
        ),
    ],
)
def test_an_export_that_does_not_fit_is_refused_in_one_line(
    exported: Saved, source: type, learner: type, settings: dict[str, Any], parts: list[str] | None, message: str
) -> None:
    assert re.search(message, refusal(made(learner, **settings), exported(source), parts))


def test_an_export_in_onnx_and_one_that_is_damaged_are_refused(saved: Saved, tmp_path: Path) -> None:
    onnx = export_policy(saved(SAC), tmp_path / "onnx", format="onnx")
    assert "ONNX holds no network that learns" in refusal(made(SAC), onnx)
    folder = export_policy(saved(SAC), tmp_path / "own")
    file = folder / "policy.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x40
    file.write_bytes(content)
    assert "is another file or damaged" in refusal(made(SAC), folder)
    description = json.loads((folder / "policy.json").read_text())
    content[-4:] = b"\x00\x00\xc0\x7f"  # NaN, with a sum that agrees
    file.write_bytes(content)
    description["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "policy.json").write_text(json.dumps(description))
    assert "give finite real numbers" in refusal(made(SAC), folder)


def test_a_learner_whose_policy_data_cannot_describe_takes_no_export(exported: Saved) -> None:
    def own(in_features: int, out_features: int) -> torch.nn.Module:
        return torch.nn.Bilinear(in_features, in_features, out_features)

    path = exported(SAC)
    assert refusal(made(SAC, network=own), path) == (
        f"init_from={str(path)!r} is an export, and this run's network is not one that can be compared with it: "
        "torch.nn.modules.linear.Bilinear is no layer that is known by name; give the checkpoint that it came from"
    )
