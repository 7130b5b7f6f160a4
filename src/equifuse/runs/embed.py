"""Embed samples with a trained model: vectors, a map of them in two dimensions, and clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import ROW
from equifuse.data.loaders import batches_of
from equifuse.data.options import SourceOptions
from equifuse.errors import InputError, UnknownNameError
from equifuse.explain.embeddings import FUSED, embeddings, known_columns
from equifuse.extras import require
from equifuse.records import OPTIONAL, Record
from equifuse.runs.folder import PathLike, load_run
from equifuse.runs.samples import ALL, samples_of
from equifuse.tasks import Columns

PROJECTIONS = ("pca", "tsne", "umap")
_LEAST = 3


@dataclass(frozen=True, eq=False)
class Clusters(Record):
    """Clusters of the fused vectors.

    >>> Clusters(3, 0.4, 0.9).count
    3

    Attributes:
        count: of clusters.
        silhouette: how much nearer samples are to their own cluster than to the next, in [-1, 1].
        agreement: adjusted Rand index with the classes, 1 where they are the same and about 0 by chance; None without
            classes.
    """

    count: int
    silhouette: float
    agreement: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Embedded:
    """The result of :func:`embed_run`.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> found = embed_run(run, split="test")
    >>> found.vectors["fused"].shape[0], found.maps["pca"].shape
    (359, (359, 2))

    Attributes:
        vectors: name -> ``(n, k)``; see :func:`~equifuse.explain.embeddings`.
        about: what there is of each sample beside: id, part, kept columns, target, cluster.
        maps: projection -> places ``(n, 2)`` of the fused vectors.
        explained: share of the variance on the two axes of the PCA; None without one.
        clusters: or None.
        notes: what was understood of other data.
    """

    vectors: dict[str, NDArray[np.float64]]
    about: Columns
    maps: dict[str, NDArray[np.float64]]
    explained: tuple[float, float] | None = None
    clusters: Clusters | None = None
    notes: list[str] = field(default_factory=list)

    def columns(self) -> Columns:
        """All of it as columns of one table: ``fused_0``, …, ``rna.encoded_0``, …, ``pca_1``, ``pca_2``."""
        found = dict(self.about)
        for name, places in self.maps.items():
            found |= {f"{name}_{k + 1}": places[:, k] for k in range(2)}
        for name, x in self.vectors.items():
            found |= {f"{name}_{k}": x[:, k].astype(np.float32) for k in range(x.shape[1])}
        return found


def embed_run(
    run: PathLike,
    data: str | None = None,
    split: str | None = None,
    *,
    source: SourceOptions | Mapping[str, Any] | None = None,
    projections: tuple[str, ...] = ("pca",),
    clusters: int | None = None,
    seed: int = 0,
) -> Embedded:
    """Embed the samples of a run, or others.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> embed_run(run, split="test", clusters=10).clusters.agreement > 0.3
    True

    Args:
        run: the run folder.
        data: name or path of other data, all rows of which are embedded; default the run's own.
        split: a part; default all of the run's own data.
        source: of a table: columns to ``keep``, ``modalities`` in files of their own, and how it is read.
        projections: "pca", "tsne", or "umap" (``equifuse[umap]``).
        clusters: how many k-means clusters of the fused vectors to find; None for none.
        seed: of t-SNE, UMAP and k-means.

    Raises:
        DataError: no finished run there, or data that cannot be used.
        UnknownNameError: an unknown projection, part or data set.
        InputError: too few samples, or a missing package.
    """
    for name in projections:
        if name not in PROJECTIONS:
            raise UnknownNameError("projection", name, PROJECTIONS)
    opened = load_run(run)
    own = split or (ALL if data is None else None)
    samples, notes = samples_of(opened, data, own, SourceOptions.of(source), labelled=False)
    if len(samples) < _LEAST:
        raise InputError(f"{len(samples)} samples are too few to be mapped")
    found = embeddings(opened.model, batches_of(samples))
    about: Columns = {ROW: np.arange(len(samples))} if samples.ids is None else {"id": np.asarray(samples.ids)}
    about |= {name: column for name, column in samples.columns.items() if name not in about}
    if samples.target is not None:
        about |= opened.task.targets.columns(samples.target, opened.model.classes)
    x = known_columns(found[FUSED])
    if not x.size:
        raise InputError("the fused vectors of all samples are the same; the model has learned nothing")
    maps, explained = {}, None
    for name in projections:
        maps[name], share = _projected(x, name, seed)
        explained = explained or share
    grouping = None
    if clusters is not None:
        labels = samples.target if opened.task.predicts_largest else None
        about["cluster"], grouping = _clusters(x, clusters, labels, seed)
    return Embedded(found, about, maps, explained, grouping, notes)


def _projected(x: NDArray[np.float64], name: str, seed: int) -> tuple[NDArray[np.float64], tuple[float, float] | None]:
    if name == "pca":
        from sklearn.decomposition import PCA  # noqa: PLC0415

        pca = PCA(min(2, *x.shape), random_state=seed)
        places = pca.fit_transform(x)
        shares = (*pca.explained_variance_ratio_.tolist(), 0.0)
        return np.pad(places, ((0, 0), (0, 2 - places.shape[1]))), (shares[0], shares[1])
    if name == "tsne":
        from sklearn.manifold import TSNE  # noqa: PLC0415

        near = min(30.0, (len(x) - 1) / 3)
        return TSNE(2, perplexity=near, init="random", random_state=seed).fit_transform(x).astype(np.float64), None
    umap = require("umap", "umap", "the projection 'umap'")
    reducer = umap.UMAP(n_components=2, n_neighbors=min(15, len(x) - 1), random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(x), dtype=np.float64), None


def _clusters(
    x: NDArray[np.float64], count: int, labels: NDArray[Any] | None, seed: int
) -> tuple[NDArray[np.int64], Clusters]:
    if not 2 <= count < len(x):
        raise InputError(f"clusters must be at least 2 and below the number of samples, {len(x)}; got {count}")
    from sklearn.cluster import KMeans  # noqa: PLC0415
    from sklearn.metrics import adjusted_rand_score, silhouette_score  # noqa: PLC0415

    found = KMeans(count, n_init=10, random_state=seed).fit_predict(x).astype(np.int64)
    many = len(np.unique(found)) > 1
    size = min(len(x), 2000)
    silhouette = float(silhouette_score(x, found, sample_size=size, random_state=seed)) if many else 0.0
    agreement = None if labels is None else float(adjusted_rand_score(labels, found))
    return found, Clusters(count, silhouette, agreement)


def output_folder(run: PathLike, out: PathLike | None, name: str) -> Path:
    """Where something about a run goes: the folder that is given, or one of this name in the run's."""
    return Path(run) / name if out is None else Path(out)
