from dataclasses import replace

import numpy as np
import pytest
import yaml

import equifuse as ef
from equifuse.benchmark import BenchmarkConfig, Method
from equifuse.benchmark.config import merge
from equifuse.benchmark.sets import look_at
from equifuse.benchmark.space import check_space
from equifuse.benchmark.summary import summarise
from equifuse.report.leaderboard import form_of


def config(**options):
    return BenchmarkConfig.from_dict({"data": ["digits"], "methods": ["deq"], **options})


def test_methods_by_name_and_by_mapping():
    assert Method.of("gmf+deq").options == {"fusion": "gmf", "backend": "deq"}
    assert Method.of("linear").fitted
    assert not Method.of("late").fitted
    assert Method.of({"fusion": "gmf", "backend": "deq"}).label == "gmf+deq"
    wide = Method.of({"label": "wide", "fusion": "deq", "dim": 512, "space": {"dim": [256, 512]}})
    assert (wide.label, wide.options, wide.space) == ("wide", {"fusion": "deq", "dim": 512}, {"dim": [256, 512]})
    with pytest.raises(ef.InputError, match="fusion: NAME"):
        Method.of({"dim": 3})
    with pytest.raises(ef.UnknownNameError, match="did you mean 'deq'"):
        config(methods=["dqe"])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"data": []}, "at least one data set"),
        ({"methods": ["deq", "deq"]}, "given twice"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"seeds": 0}, "different whole numbers"),
        ({"trials": -1}, "trials"),
        ({"missing": [1.5]}, "rates between 0 and 1"),
        ({"missing": ["most"]}, "'without'"),
        ({"protocols": ["loose"]}, "clean protocol is always part"),
        ({"protocols": ["clean", "lose"]}, "did you mean 'loose'"),
        ({"settings": {"epochs": 0}}, "epochs"),
        ({"settings": {"epoch": 1}}, "did you mean 'epochs'"),
        ({"space": {"lr": {"low": 1}}}, "low and high"),
        ({"space": {"lr": {"low": 0, "high": 1, "log": True}}}, "low and high"),
        ({"space": {"lr": []}}, "list of choices"),
        ({"spaces": {}}, "did you mean 'space'"),
    ],
)
def test_mistakes_are_told_in_one_line(options, error):
    with pytest.raises(ef.EquifuseError, match=error) as caught:
        config(**options)
    assert "\n" not in str(caught.value)


def test_a_file_takes_the_data_of_another(tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "own.npz").touch()
    (tmp_path / "sets" / "grand.yaml").write_text("data: [digits, own.npz]\nmethods: [late]\n")
    file = tmp_path / "recipe.yaml"
    file.write_text("data_from: sets/grand.yaml\nmethods: [deq]\n")
    found = BenchmarkConfig.from_options(file, {})
    assert found.data == ("digits", str(tmp_path / "sets" / "own.npz"))
    assert [method.label for method in found.methods] == ["deq"]
    assert BenchmarkConfig.from_options(file, {"data": ["digits"]}).data == ("digits",)
    file.write_text("data_from: sets/grand.yaml\ndata: [digits]\nmethods: [deq]\n")
    with pytest.raises(ef.InputError, match="leave out data, or data_from"):
        BenchmarkConfig.from_options(file, {})
    (tmp_path / "sets" / "grand.yaml").write_text("methods: [late]\n")
    file.write_text("data_from: sets/grand.yaml\nmethods: [deq]\n")
    with pytest.raises(ef.InputError, match="names no data"):
        BenchmarkConfig.from_options(file, {})


def test_it_survives_yaml(tmp_path):
    given = config(
        methods=["gmf+deq", "linear", {"label": "slow", "fusion": "deq", "lr": 1e-4, "space": {"dim": [32, 64]}}],
        seeds=[3, 5],
        trials=2,
        missing=[0.5, "only"],
        protocols=["clean", "loose"],
        settings={"epochs": 3},
        space=check_space({"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "hidden": [16, 32]}),
    )
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump(given.to_dict()))
    assert BenchmarkConfig.from_options(path, {}) == given
    assert BenchmarkConfig.from_options(path, {"seeds": 1}).seeds == (0,)
    assert BenchmarkConfig.from_options(path, {}, {"lr": 0.1}).settings == {"epochs": 3, "lr": 0.1}


def test_paths_in_a_file_are_relative_to_it(tmp_path, two_sets):
    (tmp_path / "set.npz").symlink_to(two_sets[0])
    (tmp_path / "b.yaml").write_text("data: set.npz\nmethods: [concat]\n")
    assert BenchmarkConfig.from_options(tmp_path / "b.yaml", {}).data == (str((tmp_path / "set.npz").resolve()),)


def test_later_layers_win_and_mappings_are_merged():
    merged = merge(
        {"lr": 1, "fusion_options": {"expansion": 3, "boundary": 0.4}},
        {"fusion_options": {"boundary": 0.5}},
        {"fusion_options.expansion": 6, "lr": 2},
    )
    assert merged == {"lr": 2, "fusion_options": {"expansion": 6, "boundary": 0.5}}


def test_variants_are_crossed_with_the_methods_and_stored_as_methods():
    values = {
        "data": "digits",
        "methods": ["gmf+deq", "late"],
        "variants": {"plain": {"unimodal": "none"}, "all": None},
    }
    config = BenchmarkConfig.from_dict(values)
    assert [m.label for m in config.methods] == ["gmf+deq, plain", "gmf+deq, all", "late, plain", "late, all"]
    assert config.methods[0].options == {"fusion": "gmf", "backend": "deq", "unimodal": "none"}
    assert BenchmarkConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ef.InputError, match="variants must map"):
        BenchmarkConfig.from_dict({**values, "variants": ["plain"]})


def test_of_variants_that_are_the_same_to_a_method_there_is_one():
    variants = {"plain": {"unimodal": "none"}, "skip": {"unimodal": "none", "skip": True}, "pca": {"prepare": "pca:2"}}
    given = config(methods=["deq", "late", "linear"], variants=variants, settings={"lr": 0.1, "head_dropout": 0.2})
    labels = [method.label for method in given.methods]
    assert labels == ["deq, plain", "deq, skip", "deq, pca", "late, plain", "late, pca", "linear", "linear, pca"]
    configs = {m.label: given.train_config("digits", m, 0) for m in given.methods}
    assert (configs["deq, skip"].head_dropout, configs["late, plain"].head_dropout) == (0.2, 0.0)
    with pytest.raises(ef.InputError, match="'late' decides without a head and has no use for skip; leave it"):
        config(methods=[{"fusion": "late", "skip": True}])


def test_several_targets_have_a_metric_to_be_compared_by(small_set, tmp_path):
    data = ef.datasets.load(str(small_set))
    splits = {
        part: replace(split, target=np.stack([split.target, np.arange(len(split))], 1).astype(np.float32))
        for part, split in data.splits.items()
    }
    path = tmp_path / "both.npz"
    ef.datasets.write_npz(path, replace(data, splits=splits, task="several", classes=("kind=A", "kind=B", "age")))
    asked = config(data=[str(path)], seeds=1)
    summary = summarise(asked, {"both": look_at("both", str(path), asked)}, [])
    assert (summary.metrics, summary.better) == ({"both": "loss"}, {"both": "min"})
    assert form_of(summary, "both", "loss") == (1.0, ".3f")


def test_a_benchmark_of_ensembles_is_refused_and_not_taken_for_one_of_single_models():
    with pytest.raises(ef.InputError, match="leave ensemble and cv out of five gmf"):
        config(methods=[{"label": "five gmf", "fusion": "gmf", "ensemble": 5}])
