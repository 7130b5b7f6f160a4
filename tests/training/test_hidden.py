"""Modalities are hidden in training by a stated rule, and what is monitored looks at the validation part both ways."""

import numpy as np
import pytest
import torch
import yaml

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.evaluation.conditions import drop_modalities, reduced
from equifuse.runs import TrainConfig, train
from equifuse.training import Trainer
from equifuse.training.options import TrainingOptions
from equifuse.training.rules import HIDDEN, Facts, hidden, resolved


@pytest.mark.parametrize("lacking", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("expected", [0.0, 0.5, 0.7])
def test_a_training_sample_lacks_what_is_hidden_and_what_the_data_lack(lacking, expected):
    rate = hidden(Facts(100, {"a": lacking, "b": 0.0}), {"a": expected})["a"]
    assert lacking + (1 - lacking) * rate == pytest.approx(max(HIDDEN, lacking, expected), abs=1e-3)


def test_nothing_is_hidden_of_one_modality_nor_where_modalities_are_compared():
    assert hidden(Facts(100, {"a": 0.0})) == 0
    assert hidden(Facts(100, {"a": 0.0, "b": 0.0}, hides=False)) == 0


def test_what_was_given_stays_and_what_is_resolved_is_not_resolved_again():
    facts = Facts(100, {"a": 0.0, "b": 0.0})
    assert resolved(TrainingOptions(modality_dropout=0.1), facts).modality_dropout == 0.1
    once = resolved(TrainingOptions(expect_missing={"a": 0.5}), facts)
    assert once.modality_dropout == {"a": 0.5, "b": 0.3}
    assert resolved(once, facts) == once


def test_sizes_are_left_to_the_data_only_where_asked():
    facts = Facts(1000, {"a": 0.0, "b": 0.0})
    assert set(resolved(TrainConfig("x"), facts).changed()) == {"data", "modality_dropout"}
    found = resolved(TrainConfig("x", batch_size="auto", hidden=["auto"], epochs="auto", patience="auto"), facts)
    assert (found.batch_size, found.hidden, found.epochs, found.patience) == (32, (128,), 94, 16)
    found = resolved(TrainConfig("x", batch_size=500, epochs="auto", patience=3), facts)
    assert (found.batch_size, found.hidden, found.epochs, found.patience) == (500, (128,), 300, 3)
    for rows in (1, 10, 10**3, 10**7):
        found = resolved(TrainingOptions(batch_size="auto", epochs="auto", patience="auto"), Facts(rows))
        assert 16 <= found.batch_size <= 256
        assert 5 <= found.patience <= found.epochs / 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": "many"}, "epochs must be a whole number of at least 1, got 'many'; or 'auto'"),
        ({"modality_dropout": 1.0}, "modality_dropout must be in \\[0, 1\\), or name such numbers, got 1.0; or 'auto'"),
        ({"modality_dropout": "much"}, "got 'much'; or 'auto'"),
        ({"expect_missing": {"a": 2}}, "expect_missing"),
        ({"expect_missing": {"a": 0.5}, "modality_dropout": 0.2}, "give one"),
    ],
)
def test_nonsense_is_refused_in_one_line(options, message):
    with pytest.raises(ef.InputError, match=message):
        TrainingOptions(**options)
    with pytest.raises(ef.UnknownNameError, match="did you mean 'image'"):
        resolved(TrainingOptions(expect_missing={"imag": 0.5}), Facts(9, {"image": 0.0, "text": 0.0}))


def test_each_modality_is_hidden_at_its_own_rate():
    torch.manual_seed(0)
    batch = Batch({m: torch.zeros(4000, 1) for m in "abc"}, {"c": torch.arange(4000) % 2 == 0})
    found = drop_modalities(batch, {"b": 0.5}).present
    assert bool(found["a"].all())
    assert float(found["b"].float().mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(found["c"], batch.present["c"])
    assert torch.equal(reduced(batch, 0.3, 0, 1).present["b"], reduced(batch, 0.3, 0, 1).present["b"])
    assert not torch.equal(reduced(batch, 0.3, 0, 1).present["b"], reduced(batch, 0.3, 0, 2).present["b"])


def test_the_best_epoch_is_that_of_both_validation_parts(tmp_path):
    result = train(TrainConfig("digits", fusion="concat", epochs=2, hidden=8), tmp_path / "run", progress=False)
    values = [(row["val_loss"] + row["val_reduced_loss"]) / 2 for row in result.history]
    assert result.metrics.best_epoch == 1 + int(np.argmin(values))
    record = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert record["modality_dropout"] == "auto"
    assert record["run"]["resolved"]["modality_dropout"]["pixels"] == HIDDEN


def test_without_hiding_the_validation_part_is_looked_at_as_it_is():
    data = ef.datasets.load("digits")
    model = ef.build_model(data.shapes, data.task, data.n_outputs, fusion="mean", classes=data.classes)
    result = Trainer(epochs=1, modality_dropout=0.0, watch=False).fit(model, data)
    assert result.best_value == result.history[0]["val_loss"]
    assert "val_reduced_loss" not in result.history[0]
