"""Which library multiplies in a run: chosen at its first gradient step, put back at its end, kept by a resumed run."""

from unittest.mock import MagicMock

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from toys import TINY, fit, make_trainer, noise_data, tiny_sac

from rl_lightning import PPO, MetricsCSV, RolloutDataModule, UsageError
from rl_lightning.fast import products
from rl_lightning.fast.products import Measured

NO_AVX512 = "this processor has no AVX-512"


def of(torch_seconds, onednn_seconds):
    return {"torch": Measured(torch_seconds, 2e-7), "onednn": Measured(onednn_seconds, 2e-7)}


@pytest.fixture(autouse=True)
def _able(monkeypatch):
    """A processor on which there is a choice, whatever this one is. There the switch has no effect, or exactly this."""
    monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", "auto")
    monkeypatch.setattr(products, "fault_of_processor", lambda: None)
    yield
    assert setting() == "none"


@pytest.fixture
def takes(monkeypatch):
    """Sets how long every product takes in each library; notes those that are measured."""
    measured = []

    def times(torch_seconds, onednn_seconds):
        measured.clear()

        def measure(product, ways):
            measured.append(product)
            return of(torch_seconds, onednn_seconds)

        monkeypatch.setattr(products, "measure", measure)
        return measured

    return times


def setting():
    return torch.backends.mkldnn.matmul.fp32_precision


class Settings(Callback):
    """Notes torch's setting at every batch, and may end the run by an error."""

    def __init__(self, fails=False):
        self.before, self.after, self.fails = [], [], fails

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before.append(setting())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.after.append(setting())
        if self.fails:
            raise KeyError("lost")


def sac(total_env_steps=20):
    data = noise_data(total_env_steps=total_env_steps)
    return tiny_sac(data.observation_space, data.action_space), data


def ppo():
    data = RolloutDataModule("toys:Spaces-v0", num_envs=2, rollout_steps=5, total_env_steps=40)
    return PPO(data.observation_space, data.action_space, network=TINY, n_epochs=2, batch_size=5, compile=False), data


def said(caplog):
    return [record.message for record in caplog.records if record.message.startswith("Products")]


def test_the_faster_library_is_taken_from_the_first_gradient_step_to_the_end_of_the_run(takes, caplog):
    measured, settings = takes(3.0, 1.0), Settings()
    model, data = sac()
    with caplog.at_level("INFO"):
        fit(model, data, make_trainer([settings]))
    assert len(settings.after) > 3
    assert settings.before == ["none", *["bf16"] * (len(settings.after) - 1)]
    assert set(settings.after) == {"bf16"}
    assert setting() == "none"
    assert said(caplog) == ["Products: oneDNN's, 3.0 times as fast as torch's own on this run's shapes"]
    assert len(measured) == len(set(measured)) > 5


def test_torchs_own_stays_without_a_word_where_it_is_as_fast(takes, caplog):
    takes(1.0, 1.0)
    settings = Settings()
    with caplog.at_level("INFO"):
        fit(*sac(), make_trainer([settings]))
    assert {*settings.before, *settings.after} == {"none"}
    assert said(caplog) == []


def test_torchs_own_is_put_back_after_an_error(takes):
    takes(3.0, 1.0)
    settings = Settings(fails=True)
    with pytest.raises(KeyError, match="lost"):
        fit(*sac(), make_trainer([settings]))
    assert settings.after == ["bf16"]
    assert setting() == "none"


def test_learners_in_one_process_choose_each_for_itself(takes):
    for times, expected in (((3.0, 1.0), "bf16"), ((1.0, 3.0), "none"), ((3.0, 1.0), "bf16")):
        measured, settings = takes(*times), Settings()
        fit(*sac(), make_trainer([settings]))
        assert settings.after[-1] == expected
        assert measured != []
        measured.clear()


def test_one_learner_chooses_anew_when_it_trains_again(takes):
    model, data = sac()
    for times, expected in (((3.0, 1.0), "bf16"), ((1.0, 3.0), "none")):
        takes(*times)
        settings = Settings()
        fit(model, data, make_trainer([settings]))
        assert settings.after[-1] == expected


@pytest.mark.parametrize("make", [sac, ppo])
def test_a_run_that_measures_and_keeps_torchs_own_is_to_the_last_bit_the_run_that_does_not(make, tmp_path, monkeypatch):
    monkeypatch.setattr(products, "fastest", lambda counts, measured: ("torch", 1.0))  # whatever the clock says
    real, measured = products.measure, []
    monkeypatch.setattr(products, "measure", lambda *args: measured.append(args) or real(*args))
    found = {}
    for value in ("auto", "torch"):
        monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", value)
        torch.manual_seed(3)
        model, data = make()
        fit(model, data, make_trainer(logger=MetricsCSV(tmp_path / value), log_every_n_steps=1))
        rows = [line.split(",") for line in (tmp_path / value / "metrics.csv").read_text().splitlines()]
        speed = rows[0].index("time/env_steps_per_second")
        found[value] = [row[:speed] + row[speed + 1 :] for row in rows], [*model.state_dict().values()]
        assert len(rows) > 3
        assert (len(measured) > 3) == (value == "auto")
        measured.clear()
    assert found["auto"][0] == found["torch"][0]
    assert all(torch.equal(*pair) for pair in zip(found["auto"][1], found["torch"][1], strict=True))


@pytest.fixture
def checkpoint(tmp_path, takes):
    """Of a run that has taken oneDNN's."""
    takes(3.0, 1.0)
    trainer = make_trainer([ModelCheckpoint(tmp_path, filename="end", enable_version_counter=False)])
    fit(*sac(), trainer)
    return tmp_path / "end.ckpt"


def go_on(path, *callbacks):
    model, data = sac(total_env_steps=30)
    make_trainer(callbacks).fit(model, data, ckpt_path=path, weights_only=True)


def test_a_run_that_goes_on_takes_the_library_that_it_had_without_measuring(checkpoint, takes, caplog):
    measured, settings = takes(1.0, 3.0), Settings()
    with caplog.at_level("INFO"):
        go_on(checkpoint, settings)
    assert {*settings.before, *settings.after} == {"bf16"}
    assert measured == []
    assert said(caplog) == []
    assert torch.load(checkpoint, weights_only=True)["products"] == "onednn"


def test_where_the_processor_cannot_the_run_goes_on_with_torchs_own_and_says_so(checkpoint, takes, caplog, monkeypatch):
    monkeypatch.setattr(products, "fault_of_processor", lambda: NO_AVX512)
    settings = Settings()
    with caplog.at_level("INFO"):
        go_on(checkpoint, settings)
    assert {*settings.before, *settings.after} == {"none"}
    assert said(caplog) == [
        f"Products: torch's own, oneDNN's in the checkpoint ({NO_AVX512}): the run goes on, not to the last bit"
    ]


def test_the_environment_wins_over_the_checkpoint_and_says_so(checkpoint, caplog, monkeypatch):
    monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", "torch")
    with caplog.at_level("INFO"):
        go_on(checkpoint)
    assert said(caplog) == [
        "Products: torch's own, oneDNN's in the checkpoint (RL_LIGHTNING_PRODUCTS=torch): "
        "the run goes on, not to the last bit"
    ]


def test_a_checkpoint_from_before_there_was_a_choice_goes_on_with_torchs_own(checkpoint, takes, caplog):
    older = torch.load(checkpoint, weights_only=True)
    del older["products"]
    torch.save(older, checkpoint)
    measured, settings = takes(3.0, 1.0), Settings()
    with caplog.at_level("INFO"):
        go_on(checkpoint, settings)
    assert {*settings.before, *settings.after} == {"none"}
    assert measured == []
    assert said(caplog) == []


def test_onednn_can_be_asked_for_without_measuring(takes, monkeypatch):
    monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", "onednn")
    measured, settings = takes(1.0, 3.0), Settings()
    fit(*sac(), make_trainer([settings]))
    assert {*settings.before, *settings.after} == {"bf16"}
    assert measured == []


def test_to_ask_for_what_this_run_cannot_have_is_refused(monkeypatch):
    monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", "mkl")
    with pytest.raises(UsageError, match=r"^RL_LIGHTNING_PRODUCTS='mkl' is not allowed: give auto, torch or onednn$"):
        fit(*sac())
    monkeypatch.setenv("RL_LIGHTNING_PRODUCTS", "onednn")
    monkeypatch.setattr(products, "fault_of_processor", lambda: NO_AVX512)
    with pytest.raises(UsageError, match=f"^RL_LIGHTNING_PRODUCTS='onednn' is not allowed: {NO_AVX512}; give auto or"):
        fit(*sac())


def test_a_precision_that_the_user_has_set_is_there_all_the_time_and_afterwards(takes):
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    try:
        measured, settings = takes(3.0, 1.0), Settings()
        fit(*sac(), make_trainer([settings]))
        assert {setting(), *settings.before, *settings.after} == {"ieee"}
        assert measured == []
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"


def test_all_processes_take_the_first_ones_choice(takes, monkeypatch):
    takes(1.0, 3.0)  # in this one
    model, data = sac()
    trainer, settings = make_trainer(), Settings()
    trainer.callbacks.append(settings)
    first = {True: ("onednn", 3.0), False: None}  # what the first process says: its choice, or that it measures
    monkeypatch.setattr(trainer.strategy, "broadcast", lambda own, src=0: first[own is not None])
    fit(model, data, trainer)
    assert settings.after[-1] == "bf16"


def test_a_wandb_run_has_the_choice_in_its_settings(takes, tmp_path, monkeypatch):
    takes(3.0, 1.0)
    noted = []
    monkeypatch.setattr(WandbLogger, "experiment", MagicMock())  # a run of W&B takes many seconds to begin
    monkeypatch.setattr(WandbLogger, "log_hyperparams", lambda self, params: noted.append(params))
    fit(*sac(), make_trainer(logger=WandbLogger(save_dir=tmp_path, offline=True)))
    assert noted == [{"products": "onednn"}]


@pytest.mark.filterwarnings("error:gradients run eagerly")
def test_compiled_gradients_are_counted_and_run_in_the_choice_too(takes):
    takes(3.0, 1.0)
    model, data = sac()
    model.compile_gradients, settings = True, Settings()
    fit(model, data, make_trainer([settings]))  # a graph that failed to compile would warn
    assert settings.after[-1] == "bf16"
