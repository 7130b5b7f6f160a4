"""Encoders that look at another modality."""

import pytest
import torch

import equifuse as ef
from equifuse.data.contents import Pixels, Regions, Words
from equifuse.encoders import GUIDED
from equifuse.errors import InputError, UnknownNameError
from equifuse.explain.shapley import all_coalitions as every
from equifuse.explain.shapley import coalitions_of_batch
from equifuse.tasks import Batch

REGIONS = Regions()
WORDS = Words(tuple("abcdef"))


def model_of(kind, image=REGIONS, shape=(5, 7), **options):
    torch.manual_seed(0)
    return ef.build_model(
        {"image": shape, "question": (6, 1)},
        "classification",
        3,
        fusion="concat",
        encoder={"image": kind},
        encoder_options={"hidden": (8,), "dropout": 0.0},
        contents={"image": image, "question": WORDS},
        **options,
    ).eval()


def batch():
    torch.manual_seed(1)
    inputs = {"image": torch.randn(4, 5, 7), "question": torch.randint(2, 8, (4, 6, 1)).float()}
    lengths = {"image": torch.tensor([5, 2, 3, 1]), "question": torch.tensor([6, 1, 4, 2])}
    return inputs, lengths


@pytest.mark.parametrize("kind", GUIDED)
def test_what_is_not_there_is_not_looked_at(kind):
    model = model_of(kind)
    inputs, lengths = batch()
    before = model(inputs, lengths=lengths)
    changed = {m: x.clone() for m, x in inputs.items()}
    changed["image"][1, 2:], changed["question"][3, 2:] = torch.nan, 7.0
    changed["image"][1, 2:] = 9.0
    torch.testing.assert_close(model(changed, lengths=lengths).prediction, before.prediction)
    # A question that is absent is the same whatever stands there, and the same as none at all.
    mask = {"question": torch.tensor([True, False, True, True])}
    changed["question"][1] = 3.0
    hidden = model(inputs, mask, lengths=lengths).prediction
    torch.testing.assert_close(model(changed, mask, lengths=lengths).prediction, hidden)
    alone = model({"image": inputs["image"][1:2]}, lengths={"image": lengths["image"][1:2]}).prediction
    torch.testing.assert_close(alone, hidden[1:2])
    assert not torch.allclose(hidden[1], before.prediction[1])
    # The question decides what is seen of the image.
    other = {**inputs, "question": inputs["question"].flip(0)}
    seen = model.encode(other, lengths=lengths)["image"]
    assert not torch.allclose(seen, model.encode(inputs, lengths=lengths)["image"])


def test_a_modality_taken_away_by_an_explanation_is_not_seen_by_others():
    model = model_of("guided")
    inputs, lengths = batch()
    found = coalitions_of_batch(model, Batch(inputs, lengths=lengths), every(2))
    image_alone = model({"image": inputs["image"]}, lengths={"image": lengths["image"]}).prediction
    column = found.coalitions.codes.tolist().index(1)
    torch.testing.assert_close(found.outputs[:, column], image_alone.detach())


def test_what_looks_at_another_says_nothing_alone(tmp_path):
    model = model_of("guided", Pixels(16), (3, 16, 16), unimodal_heads=True)
    inputs = {"image": torch.randint(0, 255, (2, 3, 16, 16)).float(), "question": torch.ones(2, 6, 1)}
    assert set(model(inputs).unimodal) == {"question"}
    model.save(tmp_path / "m")
    torch.testing.assert_close(ef.load(tmp_path / "m")(inputs).prediction, model(inputs).prediction)


def test_mistakes_are_told():
    with pytest.raises(UnknownNameError, match="look at"):
        model_of("guided:nobody")
    with pytest.raises(InputError, match="not for regions"):
        model_of("mlp")
    with pytest.raises(InputError, match="no states to look at"):
        ef.FusionModel(
            {"a": ef.encoders.GuidedAttention(ef.encoders.RegionStates(7, 8), "b", 8), "b": torch.nn.Linear(3, 8)},
            ef.make_fusion("concat", {"a": 8, "b": 8}),
            torch.nn.Linear(16, 2),
        )
