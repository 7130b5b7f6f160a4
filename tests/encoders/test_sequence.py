"""Padding has no effect, whatever it holds and however long it is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import equifuse as ef
from equifuse.encoders import POOLINGS, SequenceEncoder, Standardize
from equifuse.model import build_model
from equifuse.runs.config import fits_at_once


def padded(lengths, steps, fill, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((len(lengths), steps, width), fill, dtype=torch.float64)
    for i, length in enumerate(lengths):
        x[i, :length] = torch.randn(length, width, generator=generator, dtype=torch.float64)
    return x


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    more=st.integers(0, 5),
    fill=st.sampled_from([0.0, 1e6, float("nan"), float("inf")]),
)
def test_padding_has_no_effect(pooling, lengths, more, fill):
    torch.manual_seed(0)
    encoder = SequenceEncoder(3, 16, pooling, layers=2).double().eval()
    longest = max(*lengths, 1)
    tensor = torch.tensor(lengths)
    expected = encoder(padded(lengths, longest, 0.0), tensor)
    got = encoder(padded(lengths, longest + more, fill), tensor)
    torch.testing.assert_close(got, expected)
    assert bool(torch.isfinite(got).all())
    for i, length in enumerate(lengths):  # nor do other samples
        if length:
            alone = encoder(padded(lengths, longest, 0.0)[i : i + 1, :length])
            torch.testing.assert_close(alone[0], expected[i])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradients_do_not_see_the_padding(pooling):
    torch.manual_seed(0)
    encoder = SequenceEncoder(3, 16, pooling).double()
    x = padded([2, 5], 7, 9.0).requires_grad_()
    encoder.eval()(x, torch.tensor([2, 5])).square().sum().backward()
    assert float(x.grad[0, 2:].abs().max()) == 0
    assert float(x.grad[1, 5:].abs().max()) == 0
    assert float(x.grad[0, :2].abs().min(1).values.max()) > 0
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name


def test_order_matters_where_it_should():
    x = padded([6], 6, 0.0)
    for pooling in POOLINGS:
        torch.manual_seed(0)
        encoder = SequenceEncoder(3, 16, pooling).double().eval()
        same = torch.allclose(encoder(x), encoder(x.flip(1)))
        assert same == (pooling in ("mean", "max", "attention", "bag", "queries"))


def bags():
    torch.manual_seed(0)
    return SequenceEncoder(3, 16, "bag").double().eval(), padded([5, 1, 3], 6, 0.0), torch.tensor([5, 1, 3])


def test_a_bag_has_no_order_and_padding_changes_no_bit():
    encoder, x, lengths = bags()
    expected = encoder(x, lengths)
    mixed = torch.stack(
        [bag[torch.cat([torch.randperm(n), torch.arange(n, 6)])] for bag, n in zip(x, lengths, strict=True)]
    )
    assert not torch.equal(mixed, x)
    torch.testing.assert_close(encoder(mixed, lengths), expected, atol=1e-14, rtol=0)
    padding = torch.arange(6)[:, None] >= lengths[:, None, None]
    for fill in (7.0, 1e300, float("nan"), float("inf")):
        assert torch.equal(encoder(x.masked_fill(padding, fill), lengths), expected)


def test_bags_are_weighted_means_of_what_is_in_them():
    encoder, x, lengths = bags()
    h = encoder.step(x)
    gated = encoder.score[0]
    v = torch.tanh(h @ gated.value.weight.T + gated.value.bias)
    scores = (v * torch.sigmoid(h @ gated.gate.weight.T + gated.gate.bias)) @ encoder.score[1].weight[0]
    expected = [torch.softmax(scores[i, :n], 0) @ h[i, :n] for i, n in enumerate(lengths)]  # Ilse et al., eq. 9
    found = encoder(x, lengths)
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(found[1], h[1, 0])  # of one instance: itself
    torch.testing.assert_close(encoder(torch.cat([x[:1, :5]] * 2, dim=1)), found[:1])  # all of them twice


def test_bags_of_any_size_from_a_folder_to_a_prediction(tmp_path):
    h5py = pytest.importorskip("h5py")
    generator = np.random.default_rng(0)
    rows = ["id,label,split"]
    with h5py.File(tmp_path / "patches.h5", "w") as file:
        for i in range(60):
            bag = generator.normal(size=(1 + i % 7, 4)).astype("float32")
            bag[generator.integers(len(bag)), 0] += 6 * (i % 2)  # what decides is in one instance
            file[f"p{i}"] = bag
            rows.append(f"p{i},{'sick' if i % 2 else 'well'},{'test' if i >= 45 else 'train'}")
    (tmp_path / "samples.csv").write_text("\n".join(rows), encoding="utf-8")
    dataset = ef.datasets.load(tmp_path)
    assert dataset.splits["test"].lengths["patches"].tolist() == [1 + i % 7 for i in range(45, 60)]
    train, test = dataset.splits["train"], dataset.splits["test"]

    def with_gaps(split, order):
        """Padding as NaN, the instances in another order, twice as many places."""
        found = []
        for x, n in zip(split.inputs["patches"], split.lengths["patches"], strict=True):
            found.append(np.pad(x[:n][:: order or 1], ((0, 14 - n), (0, 0)), constant_values=np.nan))
        return {"patches": np.stack(found)}

    model = ef.FusionClassifier("concat", encoder={"patches": "bag"}, hidden=(16,), epochs=15, lr=0.03, random_state=0)
    model.fit(with_gaps(train, 1), train.target)
    there = model.predict_proba(with_gaps(test, 1))
    np.testing.assert_allclose(model.predict_proba(with_gaps(test, -1)), there, atol=1e-5)
    assert model.score(with_gaps(test, 1), test.target) > 0.8


def test_mistakes():
    with pytest.raises(ef.UnknownNameError, match="did you mean 'attention'"):
        SequenceEncoder(3, 16, "atention")
    with pytest.raises(ef.InputError, match="multiple of 8"):
        SequenceEncoder(3, 12, "transformer")
    encoder = SequenceEncoder(3, 16)
    with pytest.raises(ef.InputError, match=r"sequences \(B, T, 3\)"):
        encoder(torch.zeros(2, 3))
    with pytest.raises(ef.InputError, match=r"whole numbers \(2,\)"):
        encoder(torch.zeros(2, 4, 3), torch.tensor([1.0, 2.0]))


def test_standardising_sequences_counts_only_their_steps():
    x = padded([2, 5, 0], 6, 1e9).float()
    lengths = torch.tensor([2, 5, 0])
    layer = Standardize((3,))
    layer.fit(x, lengths)
    steps = torch.cat([x[0, :2], x[1, :5]])
    torch.testing.assert_close(layer.mean, steps.mean(0))
    torch.testing.assert_close(layer.scale, steps.std(0, correction=0))


def test_standardising_in_pieces_is_standardising_at_once():
    x = torch.randn(50, 4) * torch.tensor([1.0, 1e3, 1e-3, 0.0]) + 7
    at_once, in_pieces = Standardize((4,)), Standardize((4,))
    at_once.fit(x)
    for piece in x.split([1, 0, 20, 29]):
        in_pieces.update(piece)
    in_pieces.finish()
    torch.testing.assert_close(in_pieces.mean, at_once.mean)
    torch.testing.assert_close(in_pieces.scale, at_once.scale)
    assert float(at_once.scale[3]) == 0


@pytest.mark.slow
def test_every_fusion_works_on_sequences_of_different_length(tmp_path):
    shapes = {"text": (5, 3), "audio": (37, 4), "tabular": (6,)}
    inputs = {"text": torch.randn(4, 5, 3), "audio": torch.randn(4, 37, 4), "tabular": torch.randn(4, 6)}
    lengths = {"text": torch.tensor([5, 1, 2, 3]), "audio": torch.tensor([37, 20, 1, 2])}
    present = {"audio": torch.tensor([True, True, False, True])}
    for fusion in ef.available_fusions():
        encoders = ("auto", {"text": "gru", "audio": "mean"})
        for encoder in encoders[: 1 if fits_at_once(fusion) else 2]:  # these take features as they are
            model = build_model(
                shapes, "classification", 2, fusion=fusion, encoder=encoder, sequences=["text", "audio"],
                encoder_options={"hidden": (16,)},
            ).eval()  # fmt: skip
            expected = model(inputs, present, lengths=lengths).prediction
            noisy = {m: x.clone() for m, x in inputs.items()}
            noisy["audio"][2] = torch.nan  # absent
            noisy["text"][1, 1:] = 1e9
            noisy["audio"] = torch.nn.functional.pad(noisy["audio"], (0, 0, 0, 9), value=3.0)
            torch.testing.assert_close(model(noisy, present, lengths=lengths).prediction, expected)
            model.save(tmp_path / "model", overwrite=True)
            again = ef.load(tmp_path / "model")
            torch.testing.assert_close(again(inputs, present, lengths=lengths).prediction, expected)
    with pytest.raises(ef.InputError, match="cannot tell padding from data"):
        build_model(shapes, "classification", 2, encoder="mlp", sequences=["text"])
    with pytest.raises(ef.InputError, match="needs sequences"):
        build_model(shapes, "classification", 2, encoder="gru")
    model = build_model(shapes, "classification", 2)
    with pytest.raises(ef.InputError, match="cannot tell padding"):
        model(inputs, lengths=lengths)
