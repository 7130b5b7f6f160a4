"""Pretrained encoders, with tiny models that the tests make and store."""

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.encoders import pretrained

transformers = pytest.importorskip("transformers", reason="needs the extra equifuse[transformers]")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    plain = ["a", "good", "bad", "film", "with", "no", "plot", "and", "some", "music"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *plain]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    return folder


TEXTS = ["a good film", "no plot", "a bad film with no plot and some music", None]


@pytest.mark.slow
def test_text_features_do_not_depend_on_the_batch_and_are_cached(bert, tmp_path, monkeypatch):
    together = pretrained.extract(TEXTS, bert, cache=tmp_path / "cache")
    assert together.shape == (4, 16)
    assert np.isnan(together[3]).all()
    for i in range(3):
        np.testing.assert_allclose(pretrained.extract([TEXTS[i]], bert)[0], together[i], rtol=1e-4, atol=1e-5)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setattr(pretrained, "_run", lambda *_: pytest.fail("not from the cache"))
    np.testing.assert_array_equal(pretrained.extract(TEXTS, bert, cache=tmp_path / "cache"), together)
    for other in ({"pooling": "first"}, {"items": [*TEXTS[:3], ""]}):
        with pytest.raises(pytest.fail.Exception, match="not from the cache"):
            pretrained.extract(**{"items": TEXTS, "path": bert, "cache": tmp_path / "cache", **other})


def test_another_model_is_another_entry(bert, tmp_path):
    import shutil

    shutil.copytree(bert, tmp_path / "other")
    torch.manual_seed(1)
    transformers.BertModel(transformers.BertConfig.from_pretrained(bert)).save_pretrained(tmp_path / "other")
    one = pretrained.extract(TEXTS, bert, cache=tmp_path / "cache")
    other = pretrained.extract(TEXTS, tmp_path / "other", cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert np.abs(one[:3] - other[:3]).max() > 0.1


def test_in_a_model_frozen_or_fine_tuned(bert):
    tokens = torch.randint(5, 14, (3, 6))
    lengths = torch.tensor([6, 2, 4])
    for frozen in (True, False):
        encoder = pretrained.PretrainedEncoder(bert, frozen=frozen)
        fusion = ef.GMF({"text": encoder.out_dim, "tab": 5})
        model = ef.FusionModel({"text": encoder, "tab": None}, fusion, torch.nn.Linear(fusion.out_dim, 2))
        model.train()
        assert encoder.backbone.training is not frozen
        model({"text": tokens, "tab": torch.randn(3, 5)}, lengths={"text": lengths}).prediction.sum().backward()
        tuned = [p.grad is not None and float(p.grad.abs().max()) > 0 for p in encoder.parameters()]
        assert any(tuned) is not frozen
        model.eval()
        tab = torch.randn(3, 5)
        expected = model({"text": tokens, "tab": tab}, lengths={"text": lengths}).prediction
        padded = torch.nn.functional.pad(tokens, (0, 3), value=7)  # what the padding holds does not matter
        padded[1, 2:] = 9
        got = model({"text": padded, "tab": tab}, lengths={"text": lengths}).prediction
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_images(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    try:
        transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
        transformers.AutoImageProcessor.from_pretrained(tmp_path)
    except ImportError as error:
        pytest.skip(f"this transformers' image processors need more: {error}")
    images = [np.random.default_rng(i).integers(0, 255, (20, 30, 3), dtype=np.uint8) for i in range(3)]
    features = pretrained.extract(images, tmp_path, "image")
    assert features.shape == (3, 16)
    from PIL import Image

    Image.fromarray(images[1]).save(tmp_path / "picture.png")
    np.testing.assert_allclose(pretrained.extract([tmp_path / "picture.png"], tmp_path, "image")[0], features[1], 1e-4)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ef.DataError, match="not an image"):
        pretrained.extract([tmp_path / "broken.png"], tmp_path, "image")


def test_images_by_timm(tmp_path):
    timm = pytest.importorskip("timm", reason="needs the extra equifuse[timm], whose torchvision has no CPU build")
    import json

    from safetensors.torch import save_file

    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=32).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    seen = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "interpolation": "bicubic"}
    seen |= {"num_classes": 0, "first_conv": "patch_embed.proj", "classifier": "head"}
    described = {"architecture": "vit_tiny_patch16_224", "num_features": 192, "num_classes": 0}
    described |= {"model_args": {"img_size": 32}, "pretrained_cfg": seen}
    (tmp_path / "config.json").write_text(json.dumps(described))
    images = [np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8) for i in range(2)]
    features = pretrained.extract(images, tmp_path, "image", cache=tmp_path / "cache")
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.no_grad():
        expected = model(pixels)
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-4)
    encoder = pretrained.PretrainedEncoder(tmp_path, "image", frozen=False)
    encoder(pixels).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    with pytest.raises(ef.InputError, match="cannot encode text"):
        pretrained.PretrainedEncoder(tmp_path, "text")


def test_sound(tmp_path):
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8),
        conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, feat_extract_norm="layer", vocab_size=8,
    )  # fmt: skip
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)
    waves = [np.sin(np.arange(n) / 7).astype(np.float32) for n in (800, 400)]
    features = pretrained.extract(waves, tmp_path, "audio")
    assert features.shape == (2, 16)
    assert np.isfinite(features).all()


def test_mistakes(bert, tmp_path):
    with pytest.raises(ef.DataError, match="nothing is downloaded"):
        pretrained.extract(["a"], "bert-base-uncased")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ef.DataError, match="pickles"):
        pretrained.extract(["a"], tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ef.DataError, match="cannot be read"):
        pretrained.extract(["a"], tmp_path)
    with pytest.raises(ef.UnknownNameError, match="did you mean 'text'"):
        pretrained.extract(["a"], bert, "txt")
    with pytest.raises(ef.InputError, match="nothing to extract"):
        pretrained.extract([], bert)
