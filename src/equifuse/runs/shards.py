"""Predict a folder of files, shard by shard, in many processes or on many machines."""

from __future__ import annotations

import hashlib
from concurrent.futures import BrokenExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from equifuse.data.inputs import SUFFIXES
from equifuse.data.options import SourceOptions
from equifuse.data.selfcontained import member
from equifuse.data.tables import is_table
from equifuse.errors import DataError, EquifuseError, InputError
from equifuse.evaluation.evaluate import warn_unconverged
from equifuse.extras import require
from equifuse.files import atomic, locked, read_json, refuse_existing, write_json
from equifuse.runs.executors import executor
from equifuse.runs.folder import MODEL, PathLike, Run, load_run
from equifuse.runs.output import arrow_table
from equifuse.runs.predict import convergence_of, predict_pieces
from equifuse.runs.progress import count_bar
from equifuse.tasks import Columns

MANIFEST = "predictions.json"
_WEIGHTS = "model.safetensors"


def predict_shards(
    run: PathLike,
    folder: PathLike,
    out: PathLike,
    *,
    resume: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
    untrusted: bool = False,
) -> dict[str, float]:
    """Predict every file of a folder into a folder of Parquet files of the same names.

    >>> import pathlib
    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> pathlib.Path("shards").mkdir()
    >>> ef.datasets.write_npz("shards/one.npz", ef.datasets.load("digits"))
    >>> predict_shards(run, "shards", "predictions", workers=1, progress=False)["rows"]
    359

    Each shard is written whole or not at all, so that a kill loses those under way and nothing else. Parquet is read,
    predicted and written in pieces, so that a shard may be larger than memory. A shard that cannot be read does not
    stop the others.

    Args:
        run: the run folder.
        folder: shards, each as of :func:`equifuse.data.read_inputs`; names that begin with ``.`` or ``_`` are none.
        out: folder to create; columns as of :func:`~equifuse.runs.predict_run`, ``row`` counted within a shard.
        resume: go on with what is there.
        workers: shards at a time, see :func:`~equifuse.runs.executors.executor`.
        scheduler: address of a Dask scheduler whose workers see the same paths.
        progress: show a bar on standard error.
        untrusted: whether each shard is read in a process of its own; see :class:`~equifuse.datasets.SourceOptions`.

    Returns:
        ``shards``, ``rows``, and ``converged`` (share) and ``max_residual`` where the fusion solves for an equilibrium.

    Raises:
        OutputExistsError: ``out`` exists and ``resume`` is False.
        OutputError: another process writes there, the disk is full, or the folder is not writable.
        DataError: no run or no shards there, or shards that could not be predicted; the others are written.
        InputError: ``out`` holds predictions of another model or of other shards.
    """
    run, folder, out = Path(run), Path(folder), Path(out)
    shards = _shards(folder)
    load_run(run)  # a mistake here would be every shard's
    digest = _digest(run)
    manifest: dict[str, Any] = {"run": str(run), "model": digest, "input": str(folder), "shards": _stamps(shards)}
    if not resume:
        refuse_existing(out)
    elif (out / MANIFEST).is_file():
        _check(out, manifest, shards)
    elif out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise DataError(f"nothing to resume at {out}: it has no {MANIFEST}")
    with locked(out, resume=resume):
        write_json(out / MANIFEST, manifest)
        return _predict_shards(run, digest, shards, out, workers, scheduler, progress, untrusted)


def _predict_shards(
    run: Path,
    digest: str,
    shards: list[Path],
    out: Path,
    workers: int | None,
    scheduler: str | None,
    progress: bool,
    untrusted: bool,
) -> dict[str, float]:
    """Predict into a folder that is this process's own."""
    targets = {path: _target(out, path) for path in shards}
    failed: dict[str, str] = {}
    with (
        count_bar(len(shards), progress, "predicting", "shards") as advance,
        executor(workers, scheduler, (__name__,)) as pool,
    ):
        left = {path: target for path, target in targets.items() if not target.is_file()}
        for path in targets.keys() - left.keys():
            advance(path.name)
        flying = {
            pool.submit(
                _predict_shard, str(run.absolute()), digest, path.absolute(), target.absolute(), untrusted
            ): path
            for path, target in left.items()
        }
        for future in as_completed(flying):
            path = flying[future]
            try:
                future.result()
            except BrokenExecutor:
                raise InputError("a worker died, perhaps for want of memory; resume with fewer workers") from None
            except (EquifuseError, OSError) as error:
                failed[path.name] = " ".join(str(error).split())
            advance(path.name)
    if failed:
        name = min(failed)
        raise DataError(
            f"{len(failed)} of {len(shards)} shards failed, the others are in {out}; mend and resume; the first: "
            f"{name}: {failed[name]}"
        )
    return _summary(list(targets.values()), str(shards[0].parent))


def _shards(folder: Path) -> list[Path]:
    """The files of a folder that are shards, in order."""
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    named = (p for p in folder.iterdir() if p.name[0] not in "._" and p.is_file())
    found = sorted(member(folder, p.name) for p in named if p.suffix in SUFFIXES or is_table(p))
    if not found:
        raise DataError(f"{folder} has no file of a known kind: {', '.join(SUFFIXES)}")
    names = [path.stem for path in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{folder} has two shards named {twice!r}; their predictions would have the same name")
    return found


def _digest(run: Path) -> str:
    """Sixteen hexadecimal digits of the weights: of equal models, the same."""
    with (run / MODEL / _WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _stamps(shards: list[Path]) -> dict[str, list[int]]:
    """Size and time of each shard, by which a later one of its name is told from it."""
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in shards}


def _target(out: Path, shard: Path) -> Path:
    return out / f"{shard.stem}.parquet"


def _check(out: Path, manifest: dict[str, Any], shards: list[Path]) -> None:
    """Whether what is in a folder goes on to be right.

    Raises:
        InputError: it is of another model or of other shards, or a shard is not what was predicted.
    """
    found = read_json(out / MANIFEST)
    for name, what in (("model", "of another model"), ("input", "of another folder of shards")):
        if not isinstance(found, dict) or found.get(name) != manifest[name]:
            raise InputError(f"{out} holds predictions {what}; choose another path")
    before = found.get("shards")
    for shard in shards:
        done = _target(out, shard)
        known = before.get(shard.name) if isinstance(before, dict) else None
        if known is not None and done.is_file() and known != manifest["shards"][shard.name]:
            raise InputError(f"{shard} has changed since it was predicted; remove {done} to predict it again")


@lru_cache(maxsize=1)
def _opened(run: str, digest: str) -> Run:
    """A worker's model, read once; the digest tells a model from a later one at the same path."""
    del digest
    return load_run(run)


def _predict_shard(run: str, digest: str, path: Path, out: Path, untrusted: bool) -> None:
    parquet = require("train", "pyarrow.parquet", "reading and writing tables")

    with atomic(out) as staging:
        writer = None
        try:
            for piece in predict_pieces(_opened(run, digest), path, SourceOptions(untrusted=untrusted)):
                table = arrow_table(piece)
                writer = writer or parquet.ParquetWriter(staging, table.schema)
                writer.write_table(table.cast(writer.schema))
        finally:
            if writer is not None:
                writer.close()


def _summary(files: list[Path], where: str) -> dict[str, float]:
    """Of what was written, earlier or now."""
    parquet = require("train", "pyarrow.parquet", "reading and writing tables")

    rows, shares, residuals = 0, [], []
    for path in files:
        file = parquet.ParquetFile(path)
        rows += file.metadata.num_rows
        if "converged" in file.schema_arrow.names:
            table = file.read(columns=["converged", "residual"])
            columns: Columns = {name: table.column(name).to_numpy() for name in table.column_names}
            found = convergence_of(columns)
            assert found is not None
            shares.append(found["converged"] * len(table))
            residuals.append(found["max_residual"])
    summary: dict[str, float] = {"shards": len(files), "rows": rows}
    if residuals:
        solved: dict[str, float] = {"converged": float(np.sum(shares)) / rows, "max_residual": max(residuals)}
        warn_unconverged(solved, where)
        summary |= solved
    return summary
