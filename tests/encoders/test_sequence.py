"""Padding has no effect, whatever it holds and however long it is."""

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
        assert same == (pooling in ("mean", "max", "attention", "queries"))


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
    assert float(at_once.scale[3]) == 1


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
