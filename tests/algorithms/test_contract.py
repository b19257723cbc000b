"""What holds of every learner: pure gradients, who moves what, ranges, spaces, optimizers, checkpoints, whole runs."""

import math
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text
from learners import (
    CASES,
    SMOOTH,
    AtTheStart,
    Case,
    called,
    clones,
    data_of,
    example,
    leaves,
    made,
    recorded,
    same,
    sgd,
)
from lightning.pytorch import Callback, seed_everything
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau
from toys import SpacesEnv, fit, make_trainer

import rl_lightning
from rl_lightning import (
    A2C,
    DDPG,
    DQN,
    MLP,
    PPO,
    REINFORCE,
    SAC,
    TD3,
    TRPO,
    ActorCritic,
    DiscreteSAC,
    SACv2,
    SoftQ,
    UsageError,
)
from rl_lightning.algorithms.shared import ranges
from rl_lightning.algorithms.shared.learned import Gradients
from rl_lightning.data.base import EnvironmentDataModule

TARGETS = {
    SAC: {"target_value"},
    SACv2: {"target_q"},
    TD3: {"target_q", "target_policy"},
    DDPG: {"target_q", "target_policy"},
    DQN: {"target_q"},
    SoftQ: {"target_q"},
    DiscreteSAC: {"target_q"},
}


each = pytest.mark.parametrize("case", CASES, ids=called)
each_learned = pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case in CASES for name in case.learned], ids=called
)


def seeded(model: Any, batch: tuple[Any, ...], seed: int = 1) -> Gradients:
    torch.manual_seed(seed)
    return model.gradients(*batch)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@contextmanager
def refused(message: str) -> Iterator[None]:
    """By a UsageError of one line that starts so."""
    with pytest.raises(UsageError, match=f"^{message}") as caught:
        yield
    assert "\n" not in str(caught.value)


# Gradients


def primitives(model: Any) -> list[dict[str, Any]]:
    """The numbers, flags and texts of a learner, its networks, clock, noise, exploration and target averaging."""
    objects = [*model.modules(), model.clock, model.noise, model.polyak_averaging, getattr(model, "explore", None)]
    kinds = int | float | str | None  # bool is an int
    return [{k: v for k, v in vars(thing).items() if isinstance(v, kinds)} for thing in objects if thing is not None]


def state(model: Any) -> list[Tensor]:
    """Copies of a learner's parameters, gradients and buffers."""
    return clones([(p, p.grad if p.grad is not None else ()) for p in model.parameters()] + [*model.buffers()])


@each
def test_gradients_changes_nothing_and_gives_the_same_again(case):
    model, batch = example(case)
    model.metrics = {"train/old": torch.tensor(1.0)}
    before, kept, given = state(model), primitives(model), clones(batch)
    first = seeded(model, batch)
    assert same(state(model), before)
    assert primitives(model) == kept
    assert model.metrics == {"train/old": torch.tensor(1.0)}
    assert same(batch, given)
    assert same(first, seeded(model, batch))


@each
def test_gradients_are_of_each_learned_network_and_metrics_are_scalars_or_of_the_batch(case):
    model, batch = example(case)
    found = seeded(model, batch)
    assert {*found.of} == {*case.learned}
    for name, own in found.of.items():
        of_network = [parameter.shape for parameter in model.get_submodule(case.learned[name]).parameters()]
        assert [gradient.shape for gradient in own] == of_network
        assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in own)
    size = len(batch[0].reward.flatten()) if hasattr(batch[0], "reward") else len(batch[0].returns)
    for metric in found.metrics.values():
        assert metric.isfinite().all()
        assert metric.shape in ((), (size,))
    off_policy = case.learner in TARGETS
    assert (found.td_error is not None and found.td_error.shape == (size,)) == off_policy


@each
def test_gradients_are_the_slopes_of_the_reported_losses_and_of_nothing_else(case):
    # where a value is learned from values of the same network, which count as given, its slope is the gradient at γ = 0
    model, batch = example(case, **({"gamma": 0.0} if case.learner in (A2C, ActorCritic) else {}))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = seeded(model, batch)
    for name in {*found.of} - {"ent_coef"}:  # its loss is not reported
        network, norm = model.get_submodule(case.learned[name]), torch.stack([g.norm() for g in found.of[name]]).norm()

        def loss_at(by, name=name, network=network, norm=norm):
            with torch.no_grad():
                for parameter, gradient in zip(network.parameters(), found.of[name], strict=True):
                    parameter.add_(by * gradient / norm)
            loss = seeded(model, batch).metrics[f"train/{name}_loss"].item()
            model.load_state_dict(start)
            return loss

        slope = (loss_at(3e-3) - loss_at(-3e-3)) / 6e-3
        assert slope == pytest.approx(norm.item(), rel=5e-3, abs=5e-4), name


@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="there is no C++ compiler")
@pytest.mark.parametrize("case", [case for case in CASES if "compile" in case.arguments], ids=called)
def test_compiled_gradients_equal_eager_ones(case):
    # else compiled code draws other numbers; and a warning would mean that nothing was compiled, or worry the user
    with torch._inductor.config.patch(fallback_random=True), warnings.catch_warnings():
        warnings.filterwarnings("error", message="gradients run eagerly|Dynamo detected")
        model, batch = example(case, compile=True)
        torch.manual_seed(1)
        compiled = model.compute_gradients(*batch)
    eager = seeded(model, batch).detach()
    assert compiled.of.keys() == eager.of.keys()
    assert compiled.metrics.keys() == eager.metrics.keys()
    torch.testing.assert_close([*leaves(compiled)], [*leaves(eager)])


@each
def test_bf16_keeps_weights_gradients_and_losses_in_float32(case):
    data = data_of(case)
    model = made(case, data)
    before = parameters(model)
    steps = recorded(model, data, make_trainer(precision="bf16-mixed"))
    found = [leaf for step in steps for leaf in leaves(step.found)]
    assert found
    assert {tensor.dtype for tensor in [*found, *model.parameters()]} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in [*found, *model.parameters()])
    assert not same(before, parameters(model))


# Who moves what


def still_targets(case: Case) -> dict[str, Any]:
    """Settings by which targets follow and do not move: the weight of the online networks is nothing in float32."""
    return {"tau": 1e-30} if "tau" in case.arguments else {}


@pytest.mark.parametrize(("case", "moved"), [(case, name) for case in CASES for name in case.networks], ids=called)
def test_each_optimizer_moves_all_of_its_own_network_and_nothing_else(case, moved, monkeypatch):
    data = data_of(case)
    rates = {f"{name}_optimizer": sgd(0.1 if name == moved else 0.0) for name in case.learned}
    model = made(case, data, **rates, **still_targets(case))
    if (case.learner, moved) == (TRPO, "value"):  # its policy steps itself
        monkeypatch.setattr(model, "step_policy", lambda samples: {})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(model, data)
    after = model.state_dict()
    own = {name for name in before if name.startswith(case.networks[moved] + ".")}
    assert own
    assert {name for name in before if not torch.equal(before[name], after[name])} == own


@each
def test_every_parameter_has_one_optimizer_but_those_of_targets_and_trpos_policy_which_have_none(case):
    model = made(case)
    optimizers, schedulers = model.configure_optimizers()
    assert schedulers == []
    moved = [[id(p) for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
    expected = [[id(p) for p in model.get_submodule(where).parameters()] for where in case.learned.values()]
    assert sorted(map(sorted, moved)) == sorted(map(sorted, expected))
    owned = [one for own in moved for one in own]
    assert len(owned) == len({*owned})
    without = {name for name, parameter in model.named_parameters() if id(parameter) not in owned}
    prefixes = TARGETS.get(case.learner, set()) | ({"networks.policy"} if case.learner is TRPO else set())
    assert {prefix for prefix in prefixes for name in without if name.startswith(prefix + ".")} == prefixes
    assert all(name.startswith(tuple(prefix + "." for prefix in prefixes)) for name in without)
    assert not any(p.requires_grad for name, p in model.named_parameters() if name.startswith("target_"))


# Settings


OUT_OF_RANGE = {
    ranges.UNIT: (-0.1, 1.1, math.nan),
    ranges.INSIDE_UNIT: (0.0, 1.0, math.nan),
    ranges.POSITIVE: (0.0, -1.0, math.inf, math.nan),
    ranges.NOT_NEGATIVE: (-0.1, math.inf, math.nan),
    ranges.AT_LEAST_ONE: (0, -1),
    ranges.POSITIVE_OR_NONE: (0.0, -1.0, math.nan),
    ranges.AT_LEAST_ONE_OR_NONE: (0, -1),
}
REFUSED = {
    **{name: OUT_OF_RANGE.get(allowed, ("none of the words",)) for name, allowed in ranges.RANGES.items()},
    "tau": (0.0, 1.1, math.nan),
    "target_update_interval": (0, -1),
    "target_entropy": (math.nan, math.inf),
}
FREE = {"log_std_init"}  # any number


@each
def test_every_setting_out_of_range_is_refused_by_name(case):
    data = data_of(case)
    for name in {*case.arguments} & {*REFUSED}:
        for value in REFUSED[name]:
            with refused(re.escape(f"{name}={value!r} is not allowed: ")):
                made(case, data, **{name: value})


@each
def test_every_number_and_every_choice_among_the_settings_has_a_range(case):
    def is_callable(argument):
        return argument.name == "network" or argument.name.endswith(("_optimizer", "_scheduler"))

    no_range = {"noise", "exploration", "estimator", "critic"}  # objects, with ranges of their own
    flags = {name for name, argument in case.arguments.items() if argument.annotation is bool}
    callables = {name for name, argument in case.arguments.items() if is_callable(argument)}
    assert {*case.arguments} - flags - callables - no_range - FREE - {*REFUSED} == set()


def test_every_range_is_of_a_setting_of_some_learner():
    assert {*REFUSED} - {name for case in CASES for name in case.arguments} == set()


# Spaces

ON_POLICY = {REINFORCE, ActorCritic, A2C, PPO, TRPO}
ACTIONS = {
    "a Discrete": (Discrete(3), ON_POLICY | {DQN, SoftQ, DiscreteSAC}),
    "a MultiDiscrete": (MultiDiscrete([2, 3]), ON_POLICY),
    "a MultiBinary": (MultiBinary(2), ON_POLICY),
    "a bounded Box": (Box(-1.0, 1.0, (2,), np.float32), ON_POLICY | {SAC, SACv2, TD3, DDPG}),
    "an unbounded Box": (Box(-np.inf, np.inf, (2,), np.float32), ON_POLICY),
    "a Box of integers": (Box(0, 5, (2,), np.int64), set()),
    "a Box of matrices": (Box(-1.0, 1.0, (2, 2), np.float32), set()),
    "a matrix of choices": (MultiDiscrete([[2, 3], [2, 3]]), set()),
    "a Text": (Text(5), set()),
    "a Dict": (Dict({"a": Discrete(2)}), set()),
}
OBS = Box(-1.0, 1.0, (3,), np.float32)


@pytest.mark.parametrize("actions", ACTIONS)
@each
def test_actions_that_it_cannot_act_in_are_refused_with_the_learners_that_can(case, actions):
    space, able = ACTIONS[actions]
    learner = partial(case.learner, OBS, space, network=SMOOTH, **case.settings)
    if case.learner in able:
        action = learner().act(torch.zeros(4, 3), deterministic=True).detach()
        assert action.shape == (4, *space.shape)
        assert action[0].numpy().astype(space.dtype) in space
        return
    with pytest.raises(UsageError) as caught:
        learner()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(
        f"action space {' '.join(str(space).split())} is not supported by {case.learner.__name__}: "
    )
    named = {getattr(rl_lightning, word, None) for word in re.findall(r"\w+", message.partition(", or one of ")[2])}
    assert named - {None} == able


@pytest.mark.parametrize("obs", SpacesEnv.OBSERVATIONS)
@each
def test_it_learns_from_every_kind_of_observation(case, obs):
    data = data_of(case, obs)
    model = made(case, data)
    before = parameters(model)
    fit(model, data)
    for name, after in parameters(model).items():
        assert after.isfinite().all()
        if after.ndim > 1 and not name.startswith("target_"):
            assert not torch.equal(after, before[name]), name


# Optimizers


def without_the_first(params):
    return SGD(list(params)[1:], lr=0.1)


def with_a_foreign_one(params):
    return SGD([*params, nn.Parameter(torch.zeros(1))], lr=0.1)


@pytest.mark.parametrize("optimizer", [without_the_first, with_a_foreign_one, partial(Adam, lr=-0.1)])
@each_learned
def test_an_optimizer_that_cannot_learn_is_refused_at_once_by_name(case, name, optimizer):
    with refused(f"{name}_optimizer (leaves out|has 1 parameters that are not {name}'s|is not allowed: )"):
        made(case, **{f"{name}_optimizer": optimizer})


@each_learned
def test_a_scheduler_that_waits_for_a_metric_or_cannot_be_made_is_refused_at_once_by_name(case, name):
    if name == "ent_coef":
        assert "ent_coef_scheduler" not in case.arguments
        return
    for scheduler in (ReduceLROnPlateau, partial(torch.optim.lr_scheduler.StepLR, step="7")):
        with refused(f"{name}_scheduler"):
            made(case, **{f"{name}_scheduler": scheduler})


BIASES, WEIGHTS = 0.01, 0.03  # learning rates


def biases_first(params):
    """Two groups in another order than the network's, the biases with a rate of their own."""
    reverse = list(params)[::-1]
    groups = [
        {"params": [p for p in reverse if p.ndim < 2], "lr": BIASES},
        {"params": [p for p in reverse if p.ndim > 1]},
    ]
    return SGD([group for group in groups if group["params"]], lr=WEIGHTS)


@each
def test_groups_of_any_order_and_rate_move_each_parameter_by_its_own_gradient(case, monkeypatch):
    data = data_of(case)
    model = made(case, data, **{f"{name}_optimizer": biases_first for name in case.learned})
    if case.learner is TRPO:
        monkeypatch.setattr(model, "step_policy", lambda samples: {})
    by_hand = {name: parameters(model.get_submodule(where)) for name, where in case.learned.items()}
    steps = recorded(model, data)
    for step in steps:
        for name, own in step.found.of.items():
            for parameter, gradient in zip(by_hand[name].values(), own, strict=True):
                parameter -= (WEIGHTS if parameter.ndim > 1 else BIASES) * gradient
    assert steps
    for name, where in case.learned.items():
        torch.testing.assert_close(parameters(model.get_submodule(where)), by_hand[name])


# Checkpoints


class Saved(NamedTuple):
    path: Path
    weights: Path  # of the same run, weights alone


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The checkpoints of a tiny run of any case, made once."""
    folder, runs = tmp_path_factory.mktemp("runs"), {}

    def of(case: Case) -> Saved:
        if (name := case.learner.__name__) not in runs:
            data = data_of(case)
            trainer = fit(made(case, data), data)
            runs[name] = Saved(folder / f"{name}.ckpt", folder / f"{name}_weights.ckpt")
            trainer.save_checkpoint(runs[name].path)
            trainer.save_checkpoint(runs[name].weights, weights_only=True)
        return runs[name]

    return of


@each
def test_a_resumed_run_goes_on_from_the_saved_weights_moments_and_counters(case, saved):
    checkpoint = torch.load(saved(case).path, weights_only=True)
    data = data_of(case, total_env_steps=2 * case.data["total_env_steps"])
    model, start = made(case, data), AtTheStart()
    make_trainer([start]).fit(model, data, ckpt_path=saved(case).path)
    counted = checkpoint["rl_lightning"]["env_steps"], checkpoint["rl_lightning"]["gradient_steps"]
    assert start.counters == counted
    assert counted[0] >= case.data["total_env_steps"]
    assert counted[1] > 0
    assert start.weights.keys() == checkpoint["state_dict"].keys()
    assert same(start.weights, [checkpoint["state_dict"][name] for name in start.weights])
    assert start.moments
    assert same(start.moments, [optimizer["state"] for optimizer in checkpoint["optimizer_states"]])
    assert model.env_steps >= 2 * case.data["total_env_steps"]
    assert model.gradient_steps > counted[1]


@each
def test_weights_alone_are_tested_but_not_resumed(case, saved):
    results = []
    for path in saved(case):
        data = data_of(case)
        results += make_trainer().test(made(case, data), data, ckpt_path=path, verbose=False)
    assert results[0]["env_steps"] >= case.data["total_env_steps"]
    assert results[0] == results[1]
    data, path = data_of(case), saved(case).weights
    with refused(re.escape(f"ckpt_path={str(path)!r} is not allowed: it holds weights only; give it as init_from")):
        make_trainer().fit(made(case, data), data, ckpt_path=path)


@each
def test_a_checkpoint_of_other_networks_is_refused_in_one_line(case, saved):
    data, path = data_of(case), saved(case).path
    model = made(case, data, network=partial(MLP, hidden_sizes=(7,)))
    for use in (make_trainer().fit, make_trainer().test):
        with refused(
            f"checkpoint {re.escape(repr(str(path)))} is of other networks: .*; give the settings that it was"
        ):
            use(model, data, ckpt_path=path)


@pytest.mark.parametrize(("case", "other"), zip(CASES, CASES[1:] + CASES[:1], strict=True), ids=called)
def test_loaded_weights_are_those_of_a_checkpoint_of_the_same_learner_and_spaces_alone(case, other, saved):
    path = saved(case).path
    model = made(case)
    model.load_weights(path)
    assert same(model.state_dict(), torch.load(path, weights_only=True)["state_dict"])
    with refused(re.escape(f"checkpoint {str(path)!r} is of algorithm {called(case)}, this run has {called(other)}")):
        made(other).load_weights(path)
    with refused(re.escape(f"checkpoint {str(path)!r} is of observation space ")):
        made(case, data_of(case, "discrete")).load_weights(path)


# Whole runs


@each
def test_one_seed_gives_the_same_weights_again_bit_for_bit_and_another_seed_others(case):
    def trained(seed):
        seed_everything(seed, verbose=False)
        data = data_of(case)
        model = made(case, data)
        fit(model, data)
        return parameters(model)

    assert same(trained(3), trained(3))
    assert not same(trained(3), trained(4))


# Frozen networks


class FirstLayerFrozen(MLP):
    """An MLP whose first layer somebody has trained before."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features, hidden_sizes=(8,), activation="tanh")
        self[0].requires_grad_(False)


def made_to_follow(case: Case, data: EnvironmentDataModule, **settings: Any) -> Any:
    """A learner whose targets follow at once."""
    at_once = {"target_update_interval": 1} if "target_update_interval" in case.arguments else {}
    return made(case, data, **at_once, **settings)


def moved(model: Any, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def state_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def of_networks(case: Case, *names: str) -> tuple[str, ...]:
    """What the tensors of these networks, and of their targets, begin with."""
    networks = [case.networks[name] for name in names]
    return tuple(f"{name}." for where in networks for name in (where, f"target_{where}"))


@each
def test_parameters_that_are_frozen_for_good_stay_and_all_others_learn(case):
    data = data_of(case)
    model = made_to_follow(case, data, network=FirstLayerFrozen)
    before, trainer = state_of(model), make_trainer()
    fit(model, data, trainer)
    learn = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    targets = {name for name in before if name.startswith("target_") and name.removeprefix("target_") in learn}
    assert learn < {name for name, _ in model.named_parameters()}
    assert moved(model, before) == learn | targets
    owned = [id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]]
    frozen = {id(parameter) for parameter in model.parameters() if not parameter.requires_grad}
    assert frozen.isdisjoint(owned)


@pytest.mark.parametrize(("case", "name"), [(case, name) for case in CASES for name in case.networks], ids=called)
def test_a_network_that_is_frozen_for_good_stays_with_its_target_and_the_others_learn(case, name):
    data = data_of(case)
    model = made_to_follow(case, data)
    model.get_submodule(case.networks[name]).requires_grad_(False)
    if len(case.networks) == 1:
        with refused(f"{called(case)} has nothing to learn: all its parameters have requires_grad=False; "):
            fit(model, data)
        return
    before = state_of(model)
    fit(model, data)
    others = of_networks(case, *(other for other in case.networks if other != name))
    assert moved(model, before) == {tensor for tensor in before if tensor.startswith(others)}


class Watch(Callback):
    """The tensors after each gradient step, by the environment step it was taken at."""

    def __init__(self):
        self.seen: list[tuple[int, dict[str, Tensor]]] = []

    def on_gradient_step_end(self, trainer, pl_module):
        self.seen.append((pl_module.env_steps, state_of(pl_module)))


@pytest.mark.parametrize(("case", "name"), [(case, name) for case in CASES for name in case.networks], ids=called)
def test_a_part_that_freeze_names_rests_with_its_target_up_to_the_environment_step_and_learns_from_it_on(case, name):
    data = data_of(case, total_env_steps=2 * case.data["total_env_steps"])
    model, watch = made_to_follow(case, data), Watch()
    until = case.data["total_env_steps"] + 1
    part = "temperature" if name == "ent_coef" else name
    before = state_of(model)
    trainer = make_trainer([rl_lightning.Freeze([part], until), watch])
    fit(model, data, trainer)
    its = of_networks(case, name)
    resting = [tensors for env_steps, tensors in watch.seen if env_steps < until]
    learning = [tensors for env_steps, tensors in watch.seen if env_steps >= until]
    assert resting
    assert learning
    for tensors in resting:
        assert all(torch.equal(tensors[key], before[key]) for key in before if key.startswith(its))
    first_steps = [learning[0][key] for key in before if key.startswith(case.networks[name])]
    assert not same(first_steps, [before[key] for key in before if key.startswith(case.networks[name])])
    if (case.learner, name) != (TRPO, "policy"):
        optimizer = trainer.optimizers[[*case.learned].index(name)]
        assert {state["step"].item() for state in optimizer.state.values()} == {len(learning)}
    others = of_networks(case, *(other for other in case.networks if other != name))
    assert {key for key in before if not torch.equal(resting[-1][key], before[key])} == {
        key for key in before if key.startswith(others)
    }


@pytest.mark.parametrize(
    ("parts", "env_steps", "message"),
    [
        ([], 20, "Freeze.parts=[] is not allowed: name one part or more"),
        (["policy"], 0, "Freeze.env_steps=0 is not allowed: give 1 or more"),
        (["polcy"], 20, "Freeze.parts='polcy' is not allowed: the parts that learn are q, policy, temperature"),
        (["ent_coef"], 20, "Freeze.parts='ent_coef' is not allowed: the parts that learn are q, policy, temperature"),
        (["q"], 12, "Freeze.env_steps=12 is not allowed: nothing learns in the first learning_starts=12 anyway; "),
    ],
)
def test_what_cannot_be_frozen_is_refused(parts, env_steps, message):
    case = CASES[6]
    data = data_of(case)
    with refused(re.escape(message)):
        fit(made(case, data), data, make_trainer([rl_lightning.Freeze(parts, env_steps)]))


def test_a_temperature_that_is_not_learned_cannot_be_frozen():
    case = CASES[6]
    data = data_of(case)
    with refused(re.escape("Freeze.parts='temperature' is not allowed: the parts that learn are q, policy")):
        fit(made(case, data, ent_coef_optimizer=None), data, make_trainer([rl_lightning.Freeze(["temperature"], 14)]))


def test_the_next_run_of_a_learner_is_not_frozen():
    case = CASES[5]
    data = data_of(case)
    model = made(case, data)
    fit(model, data, make_trainer([rl_lightning.Freeze(["q"], 16)]))
    before = state_of(model)
    fit(model, data_of(case))
    assert moved(model, before) == before.keys()
