"""Everything that reads what somebody else wrote: for each, valid examples, and how it is read."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import pickle
import random
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import torch
import yaml
from pyarrow import csv, feather, parquet
from safetensors.torch import save_file

import equifuse as ef
from equifuse.benchmark import BenchmarkConfig
from equifuse.benchmark.config import Method
from equifuse.benchmark.job import Job, JobInfo, JobResult
from equifuse.benchmark.runner import read_benchmark
from equifuse.benchmark.store import Store
from equifuse.cli import app, main
from equifuse.data.conversion import convert
from equifuse.data.plain import read_plain, write_plain
from equifuse.datasets import read_inputs
from equifuse.export import describe
from equifuse.runs import TrainConfig, load_run, predict_run, predict_shards, train
from tests.fuzz.media import MEDIA, make_media
from tests.fuzz.parsers import PARSERS

ROWS = 24
SHAPES = {"a": (3,), "b": (2,)}


@dataclass(frozen=True)
class Target:
    """Something that reads.

    Attributes:
        files: a folder of valid files -> those to damage, by their names in it.
        read: folder -> None; may raise :class:`equifuse.EquifuseError` and nothing else.
        slow: takes a tenth of a second or more.
        parse: what reads the bytes of such a file from memory; None where only files are read.
    """

    files: tuple[str, ...]
    read: Callable[[Path], None]
    slow: bool = False
    parse: Callable[[bytes], None] | None = None


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    y = np.arange(ROWS) % 2
    return {
        "modalities": np.array(["a", "b"]),
        "task": np.array("classification"),
        "a": (generator.normal(size=(ROWS, 3)) + y[:, None]).astype(np.float32),
        "b": generator.normal(size=(ROWS, 2)).astype(np.float32),
        "y": y,
        "train_idx": np.arange(12),
        "val_idx": np.arange(12, 18),
        "test_idx": np.arange(18, ROWS),
        "sample_ids": np.array([f"s{i}" for i in range(ROWS)]),
    }


def make_examples(folder: Path) -> None:
    """Write a valid file of every kind."""
    folder.mkdir(parents=True, exist_ok=True)
    content = arrays()
    np.savez(folder / "plain.npz", **content)
    np.savez_compressed(folder / "packed.npz", **content)
    with h5py.File(folder / "set.hdf5", "w") as file:
        for key, value in content.items():
            file[key] = value.astype("S") if value.dtype.kind == "U" else value
    columns = {f"{m}:{j}": content[m][:, j] for m, (d,) in SHAPES.items() for j in range(d)}
    split = np.array(["train"] * 12 + ["val"] * 6 + ["test"] * 6)
    table = pa.table({"id": content["sample_ids"].tolist(), **columns, "label": content["y"], "split": split.tolist()})
    csv.write_csv(table, folder / "set.csv")
    parquet.write_table(table, folder / "set.parquet", row_group_size=10)
    for kind, packed in (("views", False), ("packed", True)):
        from scipy.io import savemat

        views = np.empty((1, 2), dtype=object)
        views[0, 0], views[0, 1] = content["a"], content["b"]
        savemat(folder / f"{kind}.mat", {"X": views, "Y": content["y"][:, None]}, do_compression=packed)
    with h5py.File(folder / "mmimdb.hdf5", "w") as file:
        file["features"], file["vgg_features"] = content["a"], content["b"]
        file["genres"] = np.stack([content["y"], 1 - content["y"]], axis=1)
        kinds = [("split", "S5"), ("source", "S12"), ("start", int), ("stop", int)]
        rows = [(b"train", b"x", 0, 12), (b"dev", b"x", 12, 18), (b"test", b"x", 18, ROWS)]
        file.attrs["split"] = np.array(rows, dtype=kinds)
    part = {"text": np.ones((4, 3, 2)), "audio": np.ones((4, 5, 2)), "vision": np.ones((4, 5, 1)),
            "regression_labels": np.linspace(-3, 3, 4), "id": [f"v{i}" for i in range(4)]}  # fmt: skip
    (folder / "mmsa.pkl").write_bytes(pickle.dumps(dict.fromkeys(("train", "valid", "test"), part), protocol=4))
    mogonet = folder / "mogonet"
    mogonet.mkdir(exist_ok=True)
    for suffix, rows in (("tr", slice(0, 16)), ("te", slice(16, ROWS))):
        np.savetxt(mogonet / f"labels_{suffix}.csv", content["y"][rows], fmt="%d")
        for i, m in enumerate(SHAPES, 1):
            np.savetxt(mogonet / f"{i}_{suffix}.csv", content[m][rows], delimiter=",")
    (mogonet / "1_featname.csv").write_text("one\ntwo\nthree\n")
    mfeat = folder / "mfeat"
    mfeat.mkdir(exist_ok=True)
    for view in ("fac", "fou", "kar", "mor", "pix", "zer"):
        np.savetxt(mfeat / f"mfeat-{view}", np.arange(200.0).reshape(100, 2))
    views = folder / "views"
    views.mkdir(exist_ok=True)
    csv.write_csv(table.select(["id", "label", "split"]), views / "split.csv")
    np.save(views / "a.npy", content["a"])
    with h5py.File(views / "b.h5", "w") as file:
        file["features"], file["ids"] = content["b"], content["sample_ids"].astype("S")
    models = {"gmf": {"fusion": "gmf"}, "deq": {"fusion": "deq", "fusion_options": {"dim": 8}}}
    for name, options in models.items():
        torch.manual_seed(0)
        model = ef.build_model(SHAPES, "classification", 2, encoder_options={"hidden": [8]}, **options)
        model.save(folder / f"model-{name}", overwrite=True)
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    train(TrainConfig(data=str(folder / "plain.npz"), fusion="concat", hidden=(4,), epochs=2), run, progress=False)
    (folder / "train.yaml").write_text(
        yaml.safe_dump({"data": "set.npz", "fusion": "deq", "fusion_options": {"solver": "anderson"}, "lr": 1e-3})
    )
    (folder / "benchmark.yaml").write_text(
        yaml.safe_dump(
            {
                "data": ["digits"],
                "methods": ["deq", {"label": "other", "fusion": "gmf", "space": {"lr": [1e-3, 1e-2]}}],
                "seeds": 2,
                "missing": [0.5, "without"],
                "settings": {"epochs": 3},
            }
        )
    )
    store = Store(folder / "store.sqlite")
    config = TrainConfig(data="digits", fusion="gmf")
    store.add(Job("digits", "gmf", config, "0" * 16), JobResult(0.5, {"intact": {"accuracy": 0.9}}, JobInfo(seconds=1)))
    feather.write_feather(table, folder / "set.feather", compression="uncompressed")
    with contextlib.suppress(ImportError):
        from anndata import AnnData

        cells = AnnData(content["a"])
        cells.obs["label"] = [f"c{y}" for y in content["y"]]
        cells.write_h5ad(folder / "set.h5ad")
    with contextlib.suppress(ImportError):
        import openpyxl

        book = openpyxl.Workbook()
        book.active.append(table.column_names)
        for row in table.to_pylist():
            book.active.append(list(row.values()))
        book.save(folder / "set.xlsx")
    (folder / "handed").mkdir(exist_ok=True)
    write_plain(folder / "handed", {"data": ef.datasets.load(folder / "plain.npz"), "more": (None, [1.5], ["x"])})
    (folder / "parsed").mkdir(exist_ok=True)
    for name, (valid, _) in PARSERS.items():
        for i, data in enumerate(valid):
            (folder / _parsed(name, i)).write_bytes(data)
    (folder / "words").write_text("train\n--help")
    (folder / "request.json").write_text(json.dumps({"inputs": {m: content[m][:2].tolist() for m in SHAPES}}))
    save_file({"x": torch.zeros(2)}, folder / "stray.safetensors")
    make_media(folder)


def _parsed(name: str, i: int) -> str:
    suffix = ".json" if name == "body, json" else ""
    return f"parsed/{name.replace(', ', '-').replace(' ', '-')}-{i}{suffix}"


def in_memory(name: str) -> Target:
    """What reads bytes: from files only where the suite tries damage to them."""
    valid, parse = PARSERS[name]
    files = tuple(_parsed(name, i) for i in range(len(valid)))

    def read(folder: Path) -> None:
        for file in files:
            parse((folder / file).read_bytes())

    return Target(files, read, parse=parse)


def load(name: str, **options: object) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        dataset = ef.datasets.load(folder / name, **options)
        dataset.fingerprint()

    return read


def inputs(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        read_inputs(folder / name, SHAPES)

    return read


def model(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        loaded = ef.load(folder / name)
        with torch.no_grad():
            loaded({m: torch.zeros(2, *shape) for m, shape in loaded.shapes.items()})

    return read


def used_run(folder: Path) -> None:
    load_run(folder / "run")
    (folder / "out.csv").unlink(missing_ok=True)
    predict_run(folder / "run", folder / "plain.npz", folder / "out.csv")


def resumed_run(folder: Path) -> None:
    (folder / "run/metrics.json").unlink(missing_ok=True)
    from equifuse.runs.folder import read_run_config

    config = read_run_config(folder / "run")[0]
    train(config, folder / "run", resume=True, progress=False)


def shards(folder: Path) -> None:
    shutil.rmtree(folder / "predicted", ignore_errors=True)
    shutil.rmtree(folder / "shards", ignore_errors=True)
    (folder / "shards").mkdir()
    shutil.copy(folder / "set.parquet", folder / "shards")
    predict_shards(folder / "run", folder / "shards", folder / "predicted", workers=0, progress=False)


def handed(folder: Path) -> None:
    """What a process that reads files apart gives back, if such a file has taken it over."""
    read_plain(folder / "handed")


def converted(folder: Path) -> None:
    (folder / "converted.npz").unlink(missing_ok=True)
    convert(folder / "mmsa.pkl", folder / "converted.npz")


def train_config(folder: Path) -> None:
    TrainConfig.from_options(folder / "train.yaml", {}).to_dict()


def benchmark_config(folder: Path) -> None:
    config = read_benchmark(folder)
    for method in config.methods:
        assert isinstance(method, Method)
    BenchmarkConfig.from_dict(config.to_dict())


def store(folder: Path) -> None:
    Store(folder / "store.sqlite").rows()


def request(folder: Path) -> None:
    from equifuse.serve.limits import Limits, Refusal
    from equifuse.serve.request_parsing import rows_of_json, rows_of_parquet
    from equifuse.serve.schema import RequestFormat

    limits = Limits()
    with contextlib.suppress(Refusal, ef.EquifuseError):
        form = RequestFormat(SHAPES, (), 100)
        rows_of_json((folder / "request.json").read_bytes(), form, limits)
    with contextlib.suppress(Refusal, ef.EquifuseError):
        rows_of_parquet((folder / "set.parquet").read_bytes(), RequestFormat(SHAPES, (), 100), {}, limits)


def exported(folder: Path) -> None:
    for name in ("model.onnx", "model.pt2"):
        if (folder / name).is_file():
            with contextlib.suppress(ef.EquifuseError):
                describe(folder / name)


def command_line(folder: Path) -> None:
    """One argument per line of ``words``; complaints are one line and no traceback."""
    words = (folder / "words").read_bytes().decode("utf-8", "replace").replace("\0", "").split("\n")
    if words[0] in ("demo", "serve", "benchmark") and "--help" not in words:
        words.append("--no-such-option")  # these would go on for minutes, or for ever
    if words[0] == "train" and "--help" not in words:
        words += ["--epochs", "1", "--patience", "1"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as stop:
            if stop.code not in (0, 2):
                raise AssertionError(f"exit code {stop.code}") from stop
            complaints = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
            if "Traceback" in err.getvalue() or (stop.code == 2 and len(complaints) != 1):
                raise AssertionError(err.getvalue()) from stop


class Commands:
    """Command lines that nobody means: real words in the wrong places."""

    def __init__(self) -> None:
        from typer.main import get_command

        group = get_command(app)
        self._options = {
            name: [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
            for name, command in group.commands.items()  # type: ignore[attr-defined]
        }

    def words(self, rng: random.Random) -> bytes:
        """A command and its arguments, one per line."""
        command = rng.choice(list(self._options))
        words = [command]
        if rng.random() < 0.8:
            words += ["--data", "plain.npz"] if command == "train" else [rng.choice(("run", "plain.npz"))]
        for _ in range(rng.randrange(6)):
            if self._options[command] and rng.random() < 0.8:
                words.append(rng.choice(self._options[command]))
            if rng.random() < 0.9:
                words.append(rng.choice(WORDS))
        return "\n".join(words).encode()


# fmt: off
WORDS = (
    "", "-1", "0", "1", "2", "0.5", "nan", "inf", "1e400", "9" * 30, "../..", "/", ".", "run", "plain.npz", "set.csv",
    "none.npz", "set.parquet", "model-gmf", "store.sqlite", "mmsa.pkl", "out.csv", "out.npz", "deq", "gmf", "concat",
    "linear", "digits", "train", "val", "test", "a", "b", "label", "json", "cpu", "gpu", "a=1", "a=[", "dim=8", "=",
    "*", "a.b=1", "name='x*'", "[", "--", "-", "--help", "x" * 300, "\u202e", "\t", "%s", "$(id)", ";", "tcp://127.0.0.1:1",
)
# fmt: on
COMMANDS = Commands()

_ALL: dict[str, Target] = {
    "npz": Target(("plain.npz",), load("plain.npz")),
    "npz, packed": Target(("packed.npz",), load("packed.npz")),
    "hdf5": Target(("set.hdf5",), load("set.hdf5")),
    "csv": Target(("set.csv",), load("set.csv")),
    "parquet": Target(("set.parquet",), load("set.parquet")),
    "feather": Target(("set.feather",), load("set.feather")),
    "h5ad": Target(("set.h5ad",), load("set.h5ad", source={"target": ["label"]}), slow=True),
    "xlsx": Target(("set.xlsx",), load("set.xlsx"), slow=True),
    "handed over": Target(("handed/values.json", "handed/arrays.npz"), handed),
    "mat": Target(("views.mat",), load("views.mat"), slow=True),
    "mat, packed": Target(("packed.mat",), load("packed.mat"), slow=True),
    "mm-imdb": Target(("mmimdb.hdf5",), load("mmimdb.hdf5")),
    "mmsa": Target(("mmsa.pkl",), converted),
    "mogonet": Target(("mogonet/labels_tr.csv", "mogonet/1_tr.csv", "mogonet/1_featname.csv"), load("mogonet")),
    "mfeat": Target(("mfeat/mfeat-fac", "mfeat/mfeat-mor"), load("mfeat")),
    "folder": Target(("views/split.csv", "views/a.npy", "views/b.h5"), load("views")),
    "rows, npz": Target(("plain.npz",), inputs("plain.npz")),
    "rows, hdf5": Target(("set.hdf5",), inputs("set.hdf5")),
    "rows, csv": Target(("set.csv",), inputs("set.csv")),
    "rows, parquet": Target(("set.parquet",), inputs("set.parquet")),
    "shards": Target(("set.parquet",), shards),
    "model, gmf": Target(("model-gmf/model.json", "model-gmf/model.safetensors"), model("model-gmf")),
    "model, deq": Target(("model-deq/model.json", "model-deq/model.safetensors"), model("model-deq")),
    "run": Target(("run/config.yaml", "run/model/model.json", "run/metrics.json", "run/history.json"), used_run),
    "checkpoint": Target(("run/checkpoints/last.ckpt", "run/config.yaml"), resumed_run, slow=True),
    "training options": Target(("train.yaml",), train_config),
    "benchmark options": Target(("benchmark.yaml",), benchmark_config),
    "store": Target(("store.sqlite",), store),
    "request": Target(("request.json", "set.parquet"), request),
    "command line": Target(("words",), command_line),
    **{name: Target(files, read, slow=True) for name, (files, read) in MEDIA.items()},
    **{name: in_memory(name) for name in PARSERS},
}


# Of a format whose package is not installed there is nothing to read.
_NEEDED = {"h5ad": "anndata", "xlsx": "openpyxl", "clips": "av", "clips, json": "av"}
TARGETS = {name: target for name, target in _ALL.items() if name not in _NEEDED or find_spec(_NEEDED[name])}


def corpus_of(name: str) -> list[bytes]:
    """Inputs that are kept: the shortest that reach each line of a reader of bytes."""
    kept = json.loads((Path(__file__).parent / "corpus.json").read_text())
    return [base64.b64decode(data) for data in kept.get(name, ())]


def attempt(target: Target, folder: Path, data: bytes | None = None) -> str:
    """Read; ``"read"`` or the error's one line. Anything else that is raised is a finding.

    Args:
        target: what reads.
        folder: of the files.
        data: bytes that it reads from memory instead.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if data is None:
                target.read(folder)
            else:
                assert target.parse is not None
                target.parse(data)
        except ef.EquifuseError as error:
            line = str(error)
            if "\n" in line.strip() or not line.strip() or len(line) > 3000:
                raise AssertionError(f"not one clear line: {line!r}") from None
            return line
    return "read"
