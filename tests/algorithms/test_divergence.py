"""A learner that diverges ends its run with one line, and leaves no checkpoint of it behind."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from test_contract import CASES, Case, data_of, each, made
from torch import nn
from torch.optim import SGD
from toys import TINY, make_trainer

from rl_lightning import A2C, DQN, SAC, Divergence, EnvironmentFault, RolloutDataModule
from rl_lightning.algorithms.shared.divergence import check_finite

HUGE = partial(SGD, lr=1e30)
LONG = {"total_env_steps": 200}


def diverging(case: Case):
    data = data_of(case, **{**case.data, **LONG})
    rates = {f"{name}_optimizer": HUGE for name in case.learned if name != "ent_coef"}
    return made(case, data, **rates), data


@each
def test_a_huge_learning_rate_ends_the_run_with_one_line_that_names_a_network_and_the_place(case, tmp_path):
    torch.manual_seed(1)
    model, data = diverging(case)
    saves = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)
    with pytest.raises(Divergence, match=r"at environment step \d+.*lower the learning rates") as caught:
        make_trainer([saves], validate=True).fit(model, data)
    assert "\n" not in str(caught.value)
    names = [*case.networks, *(name for name, _ in model.named_children())]
    assert any(name in str(caught.value) for name in names)
    for path in tmp_path.iterdir():
        saved = torch.load(path, weights_only=True)
        assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())


@pytest.mark.parametrize("found", ["by a row", "by an evaluation", "by its end"])
def test_a_diverged_discrete_learner_is_found(found):
    case = next(case for case in CASES if case.learner is DQN)
    model, data = diverging(case)
    every = 2 if found == "by a row" else 0
    with pytest.raises(Divergence, match=r"^the weights of q are not finite and train/q_loss is (nan|inf) at"):
        make_trainer(validate=found == "by an evaluation", log_every_n_steps=every).fit(model, data)
    assert model.env_steps == {"by a row": 14, "by an evaluation": 22, "by its end": 200}[found]


def sac_and_data():
    case = next(case for case in CASES if case.learner is SAC)
    data = data_of(case)
    return made(case, data), data


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_in_evaluation_the_policy_is_named_and_not_the_environment(stage):
    model, data = sac_and_data()
    with torch.no_grad():
        next(model.policy.parameters())[0] = math.nan
    with pytest.raises(Divergence, match=r"^the weights of policy are not finite at environment step 0"):
        getattr(make_trainer(validate=True), stage)(model, data)
    model, data = sac_and_data()
    model.act = lambda obs, deterministic=False: torch.full((len(obs), 2), math.inf)
    with pytest.raises(Divergence, match=r"^the policy's action \[\[inf, inf.* in evaluation is not finite"):
        getattr(make_trainer(validate=True), stage)(model, data)


def test_a_moment_of_infinity_is_not_saved_though_the_weights_are_finite(tmp_path):
    model, data = sac_and_data()
    trainer = make_trainer()
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "good.ckpt")
    optimizer = trainer.optimizers[1]
    next(iter(optimizer.state.values()))["exp_avg_sq"][0] = math.inf
    with pytest.raises(Divergence, match=r"^exp_avg_sq of q_optimizer is not finite at environment step 16"):
        trainer.save_checkpoint(tmp_path / "bad.ckpt")
    assert not Path(tmp_path / "bad.ckpt").exists()


def test_an_error_is_of_the_environment_where_the_learner_is_sound():
    data = RolloutDataModule("toys:Broken-v0", {"fault": "nan reward", "at": 5}, rollout_steps=10)
    model = A2C(data.observation_space, data.action_space, network=TINY, compile=False)
    with pytest.raises(EnvironmentFault, match=r"^environment 0 "):
        make_trainer().fit(model, data)


def test_weights_whose_sum_is_too_large_are_finite_all_the_same():
    network = nn.Linear(2, 2, bias=False)
    nn.init.constant_(network.weight, 3e38)
    learner = nn.ModuleDict({"q": network})
    check_finite(learner, {"q": network}, {"train/q_loss": torch.tensor(1.0), "train/ratio": torch.tensor(math.nan)}, 7)
    with pytest.raises(Divergence, match=r"^train/q_loss is inf at environment step 7: the learner has diverged"):
        check_finite(learner, {"q": network}, {"train/q_loss": torch.tensor([1.0, math.inf])}, 7)
    nn.init.constant_(network.weight, -math.inf)
    with pytest.raises(Divergence, match=r"^the weights of q are not finite at environment step 7"):
        check_finite(learner, {}, {}, 7)
