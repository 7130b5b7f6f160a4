"""Embeddings and markers: they are the model's own vectors, and find what was planted."""

import json

import numpy as np
import pytest
import torch
from pyarrow import parquet

import equifuse as ef
from equifuse.data.batch import Batch
from equifuse.explain import embeddings, markers
from equifuse.report.embedded import write_embedded
from equifuse.runs import TrainConfig, embed_run, markers_run, train
from equifuse.tasks import make_task

SHAPES = {"a": (4,), "b": (3,)}


def samples(n=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = {m: torch.randn(n, *shape, generator=generator) for m, shape in SHAPES.items()}
    return Batch(inputs, {"b": torch.arange(n) % 3 > 0}, torch.arange(n) % 2)


@pytest.mark.parametrize("fusion", ["concat", "gmf", "deq"])
def test_the_fused_vector_is_what_the_head_predicts_from(fusion):
    model = ef.build_model(SHAPES, "classification", 2, fusion=fusion, encoder_options={"hidden": (8,)}).eval()
    batch = samples()
    found = embeddings(model, [batch.select(torch.arange(5)), batch.select(torch.arange(5, 12))])
    with torch.no_grad():
        output = model(batch.inputs, batch.present)
        encoded = model.encode(batch.inputs, batch.present)
    np.testing.assert_allclose(found["fused"], output.fusion.fused.double(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["a.encoded"], encoded["a"].double(), rtol=1e-4, atol=1e-6)
    absent = ~batch.present["b"].numpy()
    for name, x in found.items():
        rows = np.isnan(x).all(axis=1)
        assert (rows == (absent if name.startswith("b.") else False)).all(), name
    assert ("a.invariant" in found) == (fusion == "gmf")
    if fusion == "gmf":  # the parts are those of the maps
        invariant, specific = model.fusion.maps["a"](encoded["a"])
        np.testing.assert_allclose(found["a.invariant"], invariant.detach().double(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["a.specific"], specific.detach().double(), rtol=1e-4, atol=1e-6)


def test_markers_are_ranked_and_find_the_feature_that_decides():
    pytest.importorskip("captum")
    head = torch.nn.Linear(7, 2)
    model = ef.FusionModel(dict.fromkeys(SHAPES), ef.Concat({"a": 4, "b": 3}), head, task="classification").eval()
    with torch.no_grad():  # class 1 is said of the second feature of a alone
        head.weight.zero_()
        head.bias.zero_()
        head.weight[1, 1] = 3.0
    model.features = {"a": ("a0", "TP53", "a2", "a3")}
    found = markers(model, make_task("classification"), [samples()])
    assert len(found) == 14
    for output in ("0", "1"):
        own = [marker for marker in found if marker.output == output]
        assert [marker.rank_overall for marker in own] == list(range(1, 8))
        assert (own[0].feature, own[0].modality) == ("TP53", "a")
        assert own[0].share == pytest.approx(1, abs=1e-4)
        assert sum(marker.share for marker in own) == pytest.approx(1)
        for m, width in (("a", 4), ("b", 3)):
            assert sorted(marker.rank for marker in own if marker.modality == m) == list(range(1, width + 1))
        assert {marker.samples for marker in own if marker.modality == "a"} == {6}


@pytest.fixture(scope="module")
def run(small_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed") / "run"
    quick = {"hidden": (8,), "head_hidden": 0, "epochs": 3, "lr": 0.01}
    config = TrainConfig(small_set.as_posix(), fusion="gmf", modality_dropout=0.0, unimodal="none", **quick)
    train(config, folder, progress=False)
    return folder


@pytest.mark.slow
def test_a_run_is_embedded_with_its_parts_clusters_and_maps(run, tmp_path):
    found = embed_run(run, projections=("pca", "tsne"), clusters=2)
    assert {part: int((found.about["part"] == part).sum()) for part in ("train", "val", "test")} == {
        "train": 90,
        "val": 40,
        "test": 50,
    }
    assert found.about["id"][0] == "train0"
    assert set(found.about["target"]) == {"no", "yes"}
    assert found.clusters.agreement > 0.5
    assert sum(found.explained) <= 1
    write_embedded(found, tmp_path / "out")
    table = parquet.read_table(tmp_path / "out/embeddings.parquet").to_pydict()
    np.testing.assert_allclose(table["fused_0"], found.vectors["fused"][:, 0], rtol=1e-5, atol=1e-6)
    assert {"id", "part", "target", "cluster", "pca_1", "tsne_2", "b.specific_0"} <= set(table)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("embeddings.parquet", "summary.json", "pca.png", "tsne.png"),
    }
    assert json.loads((tmp_path / "out/summary.json").read_text())["n"] == 180
    with pytest.raises(ef.UnknownNameError, match="did you mean 'tsne'"):
        embed_run(run, projections=("tnse",))
    with pytest.raises(ef.InputError, match="at least 2 and below"):
        embed_run(run, split="test", clusters=50)
    with pytest.raises(ef.UnknownNameError, match="unknown column 'site'"):
        write_embedded(found, tmp_path / "other", colour="site")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_markers_of_a_run_are_a_table(run, tmp_path):
    pytest.importorskip("captum")
    found = markers_run(run, samples=10, out=tmp_path / "markers.parquet")
    table = parquet.read_table(tmp_path / "markers.parquet").to_pydict()
    assert len(found) == len(table["feature"]) == 2 * (6 + 4)
    assert table["output"][0] == "no"
    assert set(table["modality"]) == {"a", "b"}
