import pytest

import equifuse as ef
from equifuse.runs import TrainConfig


def test_round_trip_through_plain_values():
    config = TrainConfig(
        data="digits", fusion="gmf", backend="deq", dim=32, hidden=(64, 32), fusion_options={"expansion": 3}
    )
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert config.resolved_fusion_options() == {"expansion": 3, "backend": "deq", "backend_options": {"dim": 32}}


def test_file_options_and_settings_in_order_of_precedence(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: digits\nlr: 1e-3\nepochs: 7\nhidden: 48\nfusion_options: {combine: mean}\nrun: {x: 1}\n")
    config = TrainConfig.from_options(path, {"epochs": 9, "seed": None}, ["solver.name=anderson", "solver.tol=1e-5"])
    assert (config.lr, config.epochs, config.seed, config.hidden) == (1e-3, 9, 0, (48,))
    assert config.fusion_options == {"combine": "mean", "solver": {"name": "anderson", "tol": 1e-5}}


def test_options_of_a_source_are_added_to_those_of_the_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: x\nsource: {format: clips, annotations: x.csv, format_options: {frames: 8, size: 224}}\n")
    source = TrainConfig.from_options(path, {"source": {"format_options": {"size": 32}}}).source
    assert source == {"format": "clips", "annotations": "x.csv", "format_options": {"frames": 8, "size": 32}}
    source = TrainConfig.from_options(path, {"source": {"format": "votenet"}}).source
    assert "format_options" not in source


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fusion": "degf"}, ef.UnknownNameError, "unknown fusion 'degf'"),
        ({"fusion": "gmf", "backend": "dep"}, ef.UnknownNameError, "did you mean 'deq'"),
        ({"fusion": "deq", "backend": "gmf"}, ef.InputError, "takes no backend"),
        ({"fusion": "gmf", "dim": 8}, ef.InputError, "has no option 'dim' without a backend"),
        ({"fusion_options": {"combin": "sum"}}, ef.UnknownNameError, "did you mean 'combine'"),
        ({"dim": 8, "fusion_options": {"dim": 16}}, ef.InputError, "given twice"),
        ({"encoder": "mpl"}, ef.UnknownNameError, "did you mean 'mlp'"),
        ({"accelerator": "tpu"}, ef.UnknownNameError, "accelerator"),
        ({"epoch": 3}, ef.UnknownNameError, "did you mean 'epochs'"),
        ({"epochs": 0}, ef.InputError, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": 2.5}, ef.InputError, "epochs"),
        ({"seed": -1}, ef.InputError, "seed"),
        ({"lr": 0}, ef.InputError, "lr must be a positive number"),
        ({"lr": "fast"}, ef.InputError, "lr"),
        ({"dropout": 1.0}, ef.InputError, r"dropout must be in \[0, 1\)"),
        ({"val_fraction": 1}, ef.InputError, "val_fraction"),
        ({"hidden": []}, ef.InputError, "hidden"),
        ({"hidden": ["wide"]}, ef.InputError, "hidden"),
        ({"dim": 0}, ef.InputError, "dim"),
        ({"data": None}, ef.InputError, "no data set given"),
    ],
)
def test_mistakes(options, error, message):
    with pytest.raises(error, match=message):
        TrainConfig.from_dict({"data": "digits", **options})


def test_unreadable_files_and_settings(tmp_path):
    with pytest.raises(ef.DataError, match="no such file"):
        TrainConfig.from_options(tmp_path / "none.yaml", {})
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: [digits\n")
    with pytest.raises(ef.DataError, match="cannot be read as YAML"):
        TrainConfig.from_options(broken, {})
    broken.write_text("- digits\n")
    with pytest.raises(ef.DataError, match="name: value"):
        TrainConfig.from_options(broken, {})
    with pytest.raises(ef.InputError, match="expected key=value, got 'combine'"):
        TrainConfig.from_options(None, {"data": "digits"}, ["combine"])
