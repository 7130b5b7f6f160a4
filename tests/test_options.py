"""One declaration per option: what flags, YAML keys, checks, help and the estimators have comes from it."""

import inspect
from dataclasses import dataclass, fields

import pytest
import yaml
from typer.main import get_command

import equifuse as ef
from equifuse.cli import app
from equifuse.cli.options import collected, flag
from equifuse.data.options import SourceOptions
from equifuse.options import GROUPS, Options, declarations, default_of, number, one_of, option, sentence, whole, wholes
from equifuse.runs import TrainConfig

DECLARED = declarations(TrainConfig)


def command_options(name):
    """Flag -> the parameter of a command."""
    return {word: p for p in get_command(app).commands[name].params for word in p.opts if word.startswith("--")}


def flags_of(kind):
    """Every flag that a class of options should have, with what is declared of it."""
    found = {}
    for name, declared in declarations(kind).items():
        if declared.parts is not None:
            found |= flags_of(declared.parts)
        elif declared.flag != "":
            found[flag(name, declared)] = declared
    return found


def test_every_field_is_declared():
    assert set(DECLARED) == {f.name for f in fields(TrainConfig)}
    assert {declared.group for declared in DECLARED.values()} <= set(GROUPS)
    assert all(declared.help.endswith(".") for declared in DECLARED.values())


def test_train_has_a_flag_for_each_option_and_few_of_its_own():
    found = command_options("train")
    expected = flags_of(TrainConfig)
    assert set(expected) <= set(found)
    assert set(found) - set(expected) == {
        "--config",
        "--out",
        "--resume",
        "--quiet",
        "--json",
        "--workers",
        "--scheduler",
    }
    for word, declared in expected.items():
        assert found[word].help.startswith(declared.help), word
        assert found[word].rich_help_panel == declared.group, word


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_the_flags_of_a_source_are_those_of_train(command):
    datasets = get_command(app).commands["datasets"].commands[command]
    words = {word for p in datasets.params for word in p.opts if word.startswith("--")}
    assert set(flags_of(SourceOptions)) <= words
    assert set(flags_of(SourceOptions)) <= set(command_options("benchmark"))


@pytest.mark.parametrize("name", [name for name in DECLARED if name != "data"])
def test_every_default_is_a_yaml_value_that_gives_itself(name):
    config = TrainConfig("digits")
    stored = yaml.safe_load(yaml.safe_dump(config.to_dict()))
    assert name in stored
    again = TrainConfig.from_dict({"data": "digits", name: stored[name]})
    assert getattr(again, name) == default_of(TrainConfig, name)
    assert again == config


@pytest.mark.parametrize("name", DECLARED)
def test_every_option_refuses_nonsense_in_one_line_that_names_it(name):
    with pytest.raises(ef.InputError) as refused:
        TrainConfig.from_dict({"data": "digits", name: object()})
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "task"), [(ef.FusionClassifier, "classification"), (ef.FusionRegressor, "regression")]
)
def test_estimators_have_the_options_that_are_for_them(kind, task):
    parameters = inspect.signature(kind).parameters
    options = {name: declared for name, declared in DECLARED.items() if declared.estimator in (True, task)}
    assert set(parameters) - set(options) == set(kind._own)
    for name in options:
        default = default_of(TrainConfig, name)
        assert parameters[name].default == (None if isinstance(default, dict) else default)
        assert f"{name}: {sentence(TrainConfig, name)}" in kind.__doc__
    assert next(iter(parameters)) == "fusion"
    assert kind(**{"epochs": 3}).get_params()["epochs"] == 3
    with pytest.raises(TypeError, match="epoch"):
        kind(epoch=3)


def test_what_was_given_on_the_command_line():
    given = collected(
        TrainConfig,
        {
            "modalities": ["a=g_*"],
            "target": ["y"],
            "class_weights": True,
            "fusion_options": ["solver.tol=1e-5"],
            "parameter_groups": ["encoders.a.*={lr: 1e-4}"],
            "logger": ["csv"],
            "hidden": [],
            "lr": None,
            "warm_start": False,
        },
    )
    assert given == {
        "source": {"modalities": {"a": "g_*"}, "target": ["y"]},
        "class_weights": "balanced",
        "fusion_options": {"solver": {"tol": 1e-5}},
        "parameter_groups": {"encoders.a.*": {"lr": 1e-4}},
        "logger": ["csv"],
        "warm_start": False,
    }
    with pytest.raises(ef.InputError, match="expected --modality name=pattern, got 'a'"):
        collected(SourceOptions, {"modalities": ["a"]})


def test_mappings_are_added_to_those_of_a_file(tmp_path):
    path = tmp_path / "größe.yaml"
    path.write_text("data: digits\nfusion_options: {combine: mean}\nschedule_options: {final: 0.1}\n", encoding="utf-8")
    config = TrainConfig.from_options(path, {"fusion_options": {"dim": 8}, "schedule": "cosine"})
    assert config.fusion_options == {"combine": "mean", "dim": 8}
    assert config.schedule_options == {"final": 0.1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "adamww"}, "did you mean 'adamw'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"logger": "cvs"}, "unknown logger 'cvs'; did you mean 'csv'"),
        ({"parameter_groups": {"head.*": {"learning_rate": 1}}}, "known: lr, weight_decay, freeze"),
        ({"parameter_groups": {"head.*": {"lr": 0}}}, "lr of parameter group 'head.*' must be a positive number"),
        ({"parameter_groups": {"head.*": 1}}, "must have lr, weight_decay, freeze of its own"),
        ({"freeze_encoders": True, "encoder_lr": 0.1}, "exclude each other"),
        ({"freeze_encoders": True, "balance": "ogm_ge"}, "acts on the encoders"),
        ({"warmup": 9, "epochs": 9}, "warmup must be shorter than training"),
        ({"logger_options": {"name": "x"}}, "go with a logger"),
        ({"gradient_clip": 0}, "gradient_clip must be a positive number, got 0"),
    ],
)
def test_mistakes(values, message):
    with pytest.raises(ef.EquifuseError) as refused:
        TrainConfig.from_dict({"data": "digits", **values})
    assert message in str(refused.value)


def test_ranges_in_words():
    @dataclass(frozen=True)
    class Tea(Options):
        minutes: float = option(3.0, number(above=0), help="Time.", group="Taste")
        share: float = option(0.5, number(least=0, below=1), help="Milk.", group="Taste")
        cups: int = option(1, whole(1), help="Cups.", group="Amount")
        sizes: tuple = option((1, 2), wholes(1), help="Sizes.", group="Amount")
        kind: str = option("green", one_of("green", "black"), help="Leaves.", group="Taste")

    assert sentence(Tea, "minutes") == "Time.  [> 0; default: 3.0]"
    assert sentence(Tea, "share") == "Milk.  [0 <= value < 1; default: 0.5]"
    assert sentence(Tea, "sizes") == "Sizes.  [>= 1; default: 1, 2]"
    assert Tea(sizes=3).sizes == (3,)
    for wrong in ({"minutes": True}, {"minutes": float("nan")}, {"share": 1}, {"cups": 1.0}, {"kind": 5}):
        with pytest.raises(ef.InputError if "kind" not in wrong else ef.UnknownNameError):
            Tea(**wrong)
