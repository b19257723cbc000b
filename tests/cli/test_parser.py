import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from torch import nn

from rl_lightning.cli.causes import Cause, find_cause
from rl_lightning.cli.lookups import allowed, nearest, settings_of
from rl_lightning.cli.main import RLCLI
from rl_lightning.cli.messages import explain
from rl_lightning.cli.parser import config_files_first
from rl_lightning.environments.make import make_env
from rl_lightning.errors import UsageError

FIT = ["fit", "--model=SAC", "--data=ReplayDataModule", "--data.env_id=Pendulum-v1"]
YAML = """\
model:
  class_path: rl_lightning.SAC
  init_args:
    tau: 0.01
data:
  class_path: rl_lightning.ReplayDataModule
  init_args:
    env_id: Pendulum-v1
"""


@pytest.fixture
def parse(parser):
    return lambda *argv: parser.parse_args(config_files_first(list(argv)))


@pytest.fixture
def refusal(parse, capsys):
    """The one line that a command line ends with."""

    def refuse(*argv):
        with pytest.raises(SystemExit) as exit_:
            parse(*argv)
        assert exit_.value.code == 2
        output = capsys.readouterr()
        assert output.out == ""
        [line] = output.err.splitlines()
        assert line.startswith("error: ")
        assert "NoneType" not in line
        assert "<class" not in line
        return line.removeprefix("error: ")

    return refuse


@pytest.fixture
def config(tmp_path):
    def write(text, name="config.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


# Flags: the whole line


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        # unknown keys
        ("--modle=SAC", "--modle is not a known option: did you mean --model?"),
        ("--modle.gamma=1", "--modle.gamma is not a known option: did you mean --model.gamma?"),
        ("--max_epochs=3", "--max_epochs is not a known option: did you mean --trainer.max_epochs?"),
        ("-trainer.max_epochs=3", "-trainer.max_epochs is not a known option: did you mean --trainer.max_epochs?"),
        ("--trainer.mx_epochs=3", "--trainer.mx_epochs is not a known option: did you mean --trainer.max_epochs?"),
        ("--checkpoint.moni=x", "--checkpoint.moni is not a known option: did you mean --checkpoint.monitor?"),
        ("--model.gama=1", "--model.gama is not a setting of SAC: did you mean --model.gamma?"),
        ("--model.init_args.gama=1", "--model.gama is not a setting of SAC: did you mean --model.gamma?"),
        ("--model.init_arg.tau=1", "--model.init_arg.tau is not a setting of SAC: did you mean --model.init_args.tau?"),
        ("--data.num_env=3", "--data.num_env is not a setting of ReplayDataModule: did you mean --data.num_envs?"),
        (
            "--model.policy_optimizer.init_args.lrr=1",
            "--model.policy_optimizer.lrr is not a setting of FusedAdam: did you mean --model.policy_optimizer.lr?",
        ),
        (
            "--trainer.logger.init_args.offlin=true",
            "--trainer.logger.offlin is not a setting of WandbRun: did you mean --trainer.logger.offline?",
        ),
        (
            "--model.network.depth=3",
            "--model.network.depth is not a setting of MLP: its settings are hidden_sizes, activation",
        ),
        # abbreviations
        ("--see=1", "--see is not a known option: did you mean --seed_everything?"),
        ("--conf=x", "--conf is not a known option: did you mean --config?"),
        ("--trainer.max_epoch=3", "--trainer.max_epoch is not a known option: did you mean --trainer.max_epochs?"),
        (
            "--trainer.log.offline=1",
            "--trainer.log.offline is not a known option: did you mean --trainer.logger.offline?",
        ),
        ("--model.gam=1", "--model.gam is not a setting of SAC: did you mean --model.gamma?"),
        (
            "--model.policy_opt.lr=1",
            "--model.policy_opt.lr is not a setting of SAC: did you mean --model.policy_optimizer.lr?",
        ),
        (
            "--model.policy_optimizer.l=1",
            "--model.policy_optimizer.l is not a setting of FusedAdam: did you mean --model.policy_optimizer.lr?",
        ),
        ("--data.env=x", "--data.env is not a setting of ReplayDataModule: did you mean --data.env_id?"),
        # keys of what a learner is given
        (
            "--model.lr=1",
            "--model.lr is not a setting of SAC: did you mean --model.value_optimizer.lr or --model.q_optimizer.lr or "
            "--model.policy_optimizer.lr?",
        ),
        (
            "--model.hidden_sizes=[8]",
            "--model.hidden_sizes is not a setting of SAC: did you mean --model.network.hidden_sizes?",
        ),
        # lists
        (
            "--model.network.hidden_sizes=256,256",
            "model.network.hidden_sizes='256,256' is not allowed: give a list, like [256,256]",
        ),
        ("--model.network.hidden_sizes=256", "model.network.hidden_sizes=256 is not allowed: give a list, like [256]"),
        # helps
        ("--model.help=SACC", "--model.help='SACC' is not allowed: did you mean SAC?"),
        (
            "--help=SAC",
            "--help=SAC is not allowed: give --help, --help=all for every setting, or --model.help=SAC",
        ),
        # wrong values
        ("--data.num_envs=x", "data.num_envs='x' is not allowed: give an int"),
        ("--data.num_envs=1.5", "data.num_envs=1.5 is not allowed: give an int"),
        ("--data.num_envs=", "data.num_envs='' is not allowed: give an int"),
        ("--data.num_envs=null", "data.num_envs=null is not allowed: give an int"),
        ("--data.save_buffer=maybe", "data.save_buffer='maybe' is not allowed: give true or false"),
        ("--data.env_kwargs=3", "data.env_kwargs=3 is not allowed: give a dict[str, Any] or null"),
        ("--data.vectorization=foo", "data.vectorization='foo' is not allowed: give one of auto, sync, async, envpool"),
        ("--model.gamma=x", "model.gamma='x' is not allowed: give a float"),
        ("--model.gamma=null", "model.gamma=null is not allowed: give a float"),
        (
            "--model.policy_gradient=foo",
            "model.policy_gradient='foo' is not allowed: give one of reparameterized, likelihood_ratio",
        ),
        ("--model.policy_optimizer.lr=x", "model.policy_optimizer.lr='x' is not allowed: give a float"),
        ("--trainer.max_epochs=a", "trainer.max_epochs='a' is not allowed: give an int or null"),
        ("--trainer.logger.offline=x", "trainer.logger.offline='x' is not allowed: give true or false"),
        ("--seed_everything=x", "seed_everything='x' is not allowed: give true or false or int"),
        (
            "--trainer=3",
            "trainer has settings, not a value: give --trainer.KEY=VALUE, or KEY: VALUE under trainer in a config file",
        ),
        (
            "--model.observation_space=3",
            "model.observation_space=3 is not allowed: the environment gives it, remove it",
        ),
        # classes
        ("--model=SACC", "model='SACC' is not allowed: did you mean SAC?"),
        ("--model=rl_lightning.SACC", "model='rl_lightning.SACC' is not allowed: did you mean rl_lightning.SAC?"),
        ("--model=nowhere.SAC", "model='nowhere.SAC' is not allowed: did you mean SAC?"),
        ("--model=nowhere.Zzz", "model='nowhere.Zzz' is not allowed: there is no module 'nowhere' to import"),
        (
            "--model=torch.nn.Linear",
            "model='torch.nn.Linear' is not allowed: give an Algorithm by its name, or path like package.module.Class",
        ),
        ("--model.network=MLPP", "model.network='MLPP' is not allowed: did you mean MLP?"),
        ("--model.policy_optimizer=Adm", "model.policy_optimizer='Adm' is not allowed: did you mean Adam?"),
        (
            "--model.policy_scheduler=StepLR",
            "model.policy_scheduler.step_size is required: "
            "give --model.policy_scheduler.step_size=VALUE, or a config file with -c FILE",
        ),
        ("--trainer.logger=WandbLoger", "trainer.logger='WandbLoger' is not allowed: did you mean WandbLogger?"),
        (
            "--trainer.callbacks+=EarlyStoping",
            "trainer.callbacks='EarlyStoping' is not allowed: did you mean EarlyStopping?",
        ),
        (
            "--trainer.callbacks.patience=3",
            "--trainer.callbacks.patience has no Callback to be a setting of: "
            "choose one first, e.g. --trainer.callbacks=CLASS or class_path in a config file",
        ),
        # flags without a value, values without a flag
        ("--trainer.max_epochs", "--trainer.max_epochs has no value: give --trainer.max_epochs=VALUE"),
        ("--model.gamma", "--model.gamma has no value: give --model.gamma=VALUE"),
        ("-c", "-c has no value: give -c FILE"),
        ("pendulum.yaml", "'pendulum.yaml' stands alone: settings are given as --KEY=VALUE, config files as -c FILE"),
    ],
)
def test_a_wrong_flag_is_told_with_its_fix(refusal, flag, line):
    assert refusal(*FIT, flag) == line


def test_an_unknown_option_like_no_other_comes_with_where_the_list_is(refusal):
    line = refusal(*FIT, "--foo=1")
    assert line.startswith("--foo is not a known option: ")
    assert " fit --help=all` lists them" in line


def test_the_list_that_errors_point_to_exists(parse, capsys):
    for flag in ("--help", "--model.help=SAC"):
        with pytest.raises(SystemExit) as exit_:
            parse("fit", flag)
        assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "--trainer.max_epochs" in out
    assert "  gamma " in out


def test_of_two_stray_values_the_first_is_named(refusal):
    assert refusal(*FIT, "a", "b").startswith("'a' stands alone")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            [],
            "the subcommand is missing: give fit, validate, test, predict, resume, export, configs, report, compare, "
            "tune or completion",
        ),
        (["fitt"], "'fitt' is not a subcommand: did you mean fit?"),
        (
            ["train"],
            "'train' is not a subcommand: give one of fit, validate, test, predict, resume, export, configs, report, "
            "compare, tune, completion",
        ),
        (
            ["--model=SAC", "fit"],
            "--model is not a known option: flags stand behind one of fit, validate, test, predict, resume, export, "
            "configs, report, compare, tune, completion",
        ),
        (["fit"], "data, model are required: give --data=ReplayDataModule --model=SAC, or a config file with -c FILE"),
        (FIT[:3], "data.env_id is required: give --data.env_id=Pendulum-v1, or a config file with -c FILE"),
        (
            ["fit", "--model.gamma=1"],  # of every learner
            "--model.gamma has no Algorithm to be a setting of: "
            "choose one first, e.g. --model=SAC or class_path in a config file",
        ),
        (
            ["fit", "--model.tau=1"],
            "--model.tau has no Algorithm to be a setting of: "
            "choose one first, e.g. --model=SAC or class_path in a config file",
        ),
        *(
            (
                ["fit", f"--model={base}"],
                f"model='{base}' is not allowed: give an Algorithm by its name, or path like package.module.Class",
            )
            for base in ("Algorithm", "rl_lightning.Algorithm")  # which has no policy
        ),
        (
            ["test", "--trainer.max_epoch=1"],
            "--trainer.max_epoch is not a known option: did you mean --trainer.max_epochs?",
        ),
    ],
)
def test_an_incomplete_command_line_is_told_what_it_lacks(refusal, argv, line):
    assert refusal(*argv) == line


# Config files: fragments of the line, which also names the file where jsonargparse knows it


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("modle: {a: 1}", "modle.a is not a known option: did you mean model.a?"),
        ("trainer: {max_epoch: 3}", "trainer.max_epoch is not a known option: did you mean trainer.max_epochs?"),
        (YAML.replace("tau", "ta"), "model.ta is not a setting of SAC: did you mean model.tau?"),
        (
            YAML + "    num_env: 3",
            "data.num_env is not a setting of ReplayDataModule: did you mean data.num_envs?",
        ),
        (
            YAML.replace("init_args", "init_arg", 1),
            "model.init_arg is not allowed beside class_path: did you mean init_args?",
        ),
        (
            "model: {class_path: SAC, gamma: 1}",
            "model.gamma is not allowed beside class_path: write it under model.init_args",
        ),
        (
            "model: {class_path: SAC, init_args: {q_optimizer: {class_path: torch.optim.Adam, init_args: {lrr: 1}}}}",
            "model.q_optimizer.lrr is not a setting of Adam: did you mean model.q_optimizer.lr?",
        ),
        (
            "trainer: {logger: {class_path: WandbLogger, init_args: {offlin: true}}}",
            "trainer.logger.offlin is not a setting of WandbLogger: did you mean trainer.logger.offline?",
        ),
        (
            "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {patienc: 3}}]}",
            "trainer.callbacks.patienc is not a setting of EarlyStopping: did you mean trainer.callbacks.patience?",
        ),
        (
            "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: a}}, Foo]}",
            "trainer.callbacks='Foo'",
        ),
        (YAML + "    num_envs: x", "data.num_envs='x' is not allowed: give an int"),
        (YAML + "    num_envs: 3.5", "data.num_envs=3.5 is not allowed: give an int"),
        (YAML + "    num_envs: null", "data.num_envs=null is not allowed: give an int"),
        (YAML.replace("Pendulum-v1", "null"), "data.env_id is required: give --data.env_id=Pendulum-v1"),
        (YAML.replace("0.01", "[1]"), "model.tau=[1] is not allowed: give a float"),
        ("trainer: {precision: 33}", "trainer.precision=33 is not allowed: give one of 64, 32, 16, "),
        ("trainer: {max_epochs: 'a\n\n  b'}", r"trainer.max_epochs='a\nb' is not allowed: give an int or null"),
        ("trainer: {logger: 3}", "trainer.logger=3 is not allowed: give a Logger or "),
        ("trainer: 3", "trainer has settings, not a value: give --trainer.KEY=VALUE, or KEY: VALUE under trainer"),
        (
            YAML.replace("lightning.SAC", "lightning.SACC"),
            "'rl_lightning.SACC' is not allowed: did you mean rl_lightning.SAC?",
        ),
        (
            YAML.replace("rl_lightning.SAC", "nowhere.Zzz"),
            "model='nowhere.Zzz' is not allowed: there is no module 'nowhere'",
        ),
        (
            YAML.replace("rl_lightning.SAC", "torch.nn.Linear"),
            "model='torch.nn.Linear' is not allowed: give an Algorithm",
        ),
        (YAML.replace("rl_lightning.SAC", "3"), "model={'class_path': 3, "),
        (
            YAML.replace("0.01", "${nope.x}"),
            "model.tau has no value: Interpolation key 'nope.x' not found; "
            "give the whole path of a key in the same file, like ${data.init_args.env_id} (in ",
        ),
        (YAML.replace("0.01", "${nope"), "model.tau has no value: no viable alternative at input '${nope' (in "),
        (YAML.replace("0.01", "???"), "model.tau has no value: Missing mandatory value: tau (in "),
        ("a: [1\nb: 2\n", "not valid YAML: while parsing a flow sequence at line 1, column 4 did not find expected"),
        (YAML + YAML, "found duplicate key model at line 9, column 1"),
        ("", "a config file holds keys and values"),
        ("- a", "a config file holds keys and values"),
    ],
)
def test_a_wrong_config_is_told_with_its_fix(refusal, config, text, line):
    assert line in refusal("fit", "-c", config(text))


def test_the_file_with_the_mistake_is_named(refusal, config):
    good, bad = config(YAML), config("trainer: {max_epochs: x}", "bad.yaml")
    assert refusal("fit", "-c", good, "-c", bad).endswith(f"give an int or null (in {bad})")


def test_a_mistake_in_a_flag_is_not_blamed_on_the_file_before_it(refusal, config):
    assert refusal("fit", "-c", config(YAML), "--model.tau=x") == "model.tau='x' is not allowed: give a float"


def test_a_missing_config_file_is_told_with_the_nearest(refusal, config, monkeypatch):
    monkeypatch.chdir(Path(config(YAML, "pendulum.yaml")).parent)
    line = refusal("fit", "-c", "pendlum.yaml")
    assert line == "config='pendlum.yaml' is not a file that can be read: did you mean pendulum.yaml?"


def test_a_binary_config_file_is_refused(refusal, tmp_path):
    path = tmp_path / "policy.pt"
    path.write_bytes(b"PK\xff\xfe")
    assert refusal("fit", "-c", str(path)).endswith(f"(in {path})")


@pytest.mark.parametrize("flag", ["--model=broken_module.It", "--trainer.callbacks=broken_module.It"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 +", "SyntaxError in {}, line 1: invalid syntax"),
        ("\n{}['colour']", "KeyError in {}, line 2: 'colour'"),
        ("import nothing_like_it", "ModuleNotFoundError in {}, line 1: No module named 'nothing_like_it'"),
        ("assert False", "AssertionError in {}, line 1: without a message"),
    ],
)
def test_a_class_whose_module_is_broken_shows_where_and_why(refusal, tmp_path, monkeypatch, flag, code, said):
    path = tmp_path / "broken_module.py"
    path.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    line = refusal(*FIT, flag)
    assert line == f"{said.format(path)}; mend what is there, or the settings that it is given"


def test_a_value_that_is_no_class_is_not_imported(refusal, tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text("open('imported', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert refusal(*FIT, "--model.gamma=my_module.It") == "model.gamma='my_module.It' is not allowed: give a float"
    assert not (tmp_path / "imported").exists()


# What is right stays right


class Wide(nn.Module):
    """The sum of an observation, so often."""

    def __init__(self, space: gym.Space, width: int) -> None:
        super().__init__()
        self.out_features = width

    def forward(self, obs):
        return obs.sum(-1, keepdim=True).expand(-1, self.out_features)


def test_encoders_of_ones_own_are_given_with_the_network(parser, parse):
    encoders = f"{{obs: {{class_path: {__name__}.Wide, init_args: {{width: 5}}}}}}"
    flags = ["--model.network=rl_lightning.networks.WithEncoders", f"--model.network.encoders={encoders}"]
    made = parser.instantiate(parse(*FIT, *flags))["fit"].model
    assert made.policy.encoder.out_features == made.q.q2.encoder.out_features == 5
    assert made.q.q1.encoder.encoder is not made.policy.encoder.encoder


def test_right_flags_are_parsed_with_their_types(parse):
    config = parse(
        *FIT,
        "--model.gamma=0.9",
        "--model.policy_optimizer.init_args.lr=1e-3",
        "--data.env_kwargs.g=15",
        "--data.env_steps_per_epoch=null",
        "--trainer.logger.init_args.offline=false",
        "--trainer.callbacks+=EarlyStopping",
        "--trainer.callbacks.monitor=val/return_mean",
    ).fit
    assert config.model.init_args.gamma == 0.9
    assert config.model.init_args.policy_optimizer.init_args.lr == 1e-3
    assert config.data.init_args.env_kwargs == {"g": 15}
    assert config.data.init_args.env_steps_per_epoch is None
    assert config.trainer.logger.init_args.offline is False
    assert config.trainer.callbacks[0].init_args.monitor == "val/return_mean"
    assert parse(*FIT, "--trainer.logger=false").fit.trainer.logger is False


def test_interpolation_takes_the_value_of_another_key(parse, config):
    text = YAML.replace("Pendulum-v1", "Pendulum-v1\n    num_envs: ${data.init_args.train_freq}\n    train_freq: 4")
    assert parse("fit", "-c", config(text)).fit.data.init_args.num_envs == 4


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)], ids=["first", "between", "last"])
def test_flags_win_over_files_and_later_files_over_earlier_wherever_they_stand(parse, config, order):
    first = config(YAML + "    num_envs: 2\n    batch_size: 8")
    second = config("data: {init_args: {num_envs: 3, train_freq: 5}}", "second.yaml")
    groups = [["--model.tau=0.5", "--data.train_freq=7"], ["-c", first], [f"--config={second}"]]
    config_ = parse("fit", *(argument for index in order for argument in groups[index])).fit
    assert config_.model.init_args.tau == 0.5  # flag over file
    assert config_.data.init_args.train_freq == 7  # flag over the last file
    assert config_.data.init_args.num_envs == 3  # last file over the first
    assert config_.data.init_args.batch_size == 8  # file over default
    assert config_.data.init_args.buffer_size == 1_000_000  # default


def test_a_mistyped_argument_of_the_environment_is_refused_by_gymnasium(parse):
    env_kwargs = parse(*FIT, "--data.env_kwargs.gg=15").fit.data.init_args.env_kwargs
    with pytest.raises(UsageError, match=r"env_kwargs=\{'gg': 15\} is refused by Pendulum-v1"):
        make_env("Pendulum-v1", env_kwargs)


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--model.gamma=5", "gamma=5.0 is not allowed: give a number in [0, 1]"),
        ("--data.num_envs=0", "num_envs=0 is not allowed: give 1 or more"),
        ("--data.env_kwargs.gg=1", "env_kwargs={'gg': 1} is refused by Pendulum-v1"),
    ],
)
def test_what_an_object_refuses_is_raised_as_it_is_before_a_run_folder_exists(tmp_path, monkeypatch, flag, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        RLCLI([*FIT, flag])
    assert str(error.value).startswith(line)
    assert not list(tmp_path.iterdir())


def test_the_program_prints_the_line_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "rl_lightning", *FIT, "--qqqqqqqq"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stdout == ""
    [line] = run.stderr.splitlines()
    assert line.startswith("error: --qqqqqqqq is not a known option: `rl-lightning fit --help=all` lists them")
    assert not list(tmp_path.iterdir())


# The pure functions

NESTED = """\
Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'rl_lightning.SAC':
        Parser key "gamma":
          Expected a <class 'float'>. Got value: x
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='gamma', val='x')"""


def test_the_cause_is_found_below_keys_classes_and_alternatives():
    assert find_cause(NESTED) == Cause(
        text="", key="model.gamma", value="x", class_path="rl_lightning.SAC", types="<class 'float'>", dashes="--"
    )


def test_a_message_not_known_is_kept_in_one_line():
    assert explain("Something\n  quite new:\n- happened") == "Something quite new: - happened"
    assert explain('Parser key "a.b":\n  Something\n  new') == "a.b is not allowed: Something new"


def test_an_option_is_compared_with_those_beside_it():
    known = ["model", "data", "trainer.max_epochs", "trainer.min_epochs", "trainer.logger"]
    assert nearest("modle.gamma", known) == "model.gamma"
    assert nearest("trainer.max_epoch", known) == "trainer.max_epochs"
    assert nearest("trainr.max_epoch", known) == "trainer.max_epoch"  # one part at a time
    assert nearest("trainer.zzz", known) is None
    assert nearest("trainer.m", known) is None  # two begin so


def test_types_are_told_in_words():
    assert allowed("<class 'int'>, <class 'NoneType'>") == "an int or null"
    assert allowed("typing.Literal['a', 'b'], <class 'NoneType'>") == "one of a, b or null"
    assert allowed("list[lightning.pytorch.Callback], <class 'bool'>") == "a list[Callback] or true or false"
    assert allowed("dict[str, typing.Any]") == "a dict[str, Any]"


def test_settings_are_those_that_the_user_can_give():
    names = {path: [setting.name for setting in settings_of(path)] for path in ("rl_lightning.SAC", "torch.optim.Adam")}
    assert {"gamma", "policy_optimizer"} <= {*names["rl_lightning.SAC"]}
    assert "observation_space" not in names["rl_lightning.SAC"]
    assert "lr" in names["torch.optim.Adam"]
    assert "params" not in names["torch.optim.Adam"]


@pytest.mark.parametrize(
    ("args", "moved"),
    [
        (["fit", "--a=1", "-c", "x", "--b"], ["fit", "-c", "x", "--a=1", "--b"]),
        (["-c", "x", "fit", "--config=y"], ["fit", "-c", "x", "--config=y"]),
        (["fit", "--a", "-c"], ["fit", "-c", "--a"]),
        ([], []),
    ],
)
def test_config_files_move_behind_the_subcommand_in_their_order(args, moved):
    assert config_files_first(args) == moved
