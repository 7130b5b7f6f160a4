"""What a benchmark compares, from keywords, flags, or one YAML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from equifuse.benchmark.space import Space, check_space
from equifuse.errors import InputError, UnknownNameError
from equifuse.runs.config import TrainConfig, fits_at_once, unused_by, without_unused
from equifuse.runs.settings import read_config
from equifuse.training.options import refuse_unused
from equifuse.training.protocol import CLEAN, PROTOCOLS

# Test conditions that stand for one condition per modality.
WITHOUT, ONLY = "without", "only"
_MOST_SEEDS = 1000
# Settings of encoders and fusions that are trained.
_OF_FUSIONS = ("encoder", "dim", "backend", "fusion_options")


@dataclass(frozen=True)
class Method:
    """One contender.

    Args:
        label: what it is called in tables.
        options: of :class:`~equifuse.runs.TrainConfig`.
        space: what is tuned of it beside, or in place of, the benchmark's own space.
    """

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    space: Space = field(default_factory=dict)

    @property
    def fitted(self) -> bool:
        """Whether it is fitted at once, as linear models and trees are, and has neither encoders nor epochs."""
        return fits_at_once(self.options["fusion"])

    @classmethod
    def of(cls, value: str | Mapping[str, Any]) -> Method:
        """From ``"gmf"``, ``"gmf+deq"`` (a fusion and its backend), ``"linear"``, or a mapping.

        Args:
            value: a mapping has ``label`` (default: made of fusion and backend), ``space``, and options.

        Raises:
            InputError: it is neither, or has no fusion.
        """
        if isinstance(value, str):
            fusion, plus, backend = value.partition("+")
            named = {"fusion": fusion, **({"backend": backend} if plus else {})}
            return cls(value, named)
        if not isinstance(value, Mapping) or not value.get("fusion"):
            raise InputError(f"a method is a name, or options with 'fusion: NAME' among them; got {value!r}")
        options = {name: entry for name, entry in value.items() if name not in ("label", "space")}
        label = "+".join(str(options[name]) for name in ("fusion", "backend") if options.get(name))
        return cls(str(value.get("label") or label), options, check_space(value.get("space") or {}))


@dataclass(frozen=True)
class BenchmarkConfig:
    """Methods × data sets × seeds × test conditions, and what is the same for all of them.

    Args:
        data: names or paths of data sets.
        methods: names (``"deq"``, ``"gmf+deq"``, ``"linear"``) or mappings, see :meth:`Method.of`.
        seeds: how many (0, 1, …), or which.
        trials: settings tried per method and data set, each by one training that is judged on validation; the first
            are the defaults. 0 (default): no tuning.
        missing: conditions on test beside the intact one: rates in (0, 1) at which modalities are hidden, ``"without"``
            (each modality taken away in turn) and ``"only"`` (each alone).
        protocols: ``"clean"`` (default) and ``"loose"``; see :mod:`equifuse.training.protocol`.
        settings: options of :class:`~equifuse.runs.TrainConfig` for every method.
        space: what is tuned, option -> range; see :mod:`equifuse.benchmark.space`. Default: the same space of encoder
            and optimiser options for every method.

    Raises:
        InputError: a value does not fit.
        UnknownNameError: an unknown method, protocol or option.
    """

    data: tuple[str, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    trials: int = 0
    missing: tuple[float | str, ...] = ()
    protocols: tuple[str, ...] = (CLEAN,)
    settings: dict[str, Any] = field(default_factory=dict)
    space: Space | None = None

    def __post_init__(self) -> None:
        if not self.data or not self.methods:
            raise InputError("a benchmark needs at least one data set and one method")
        for kind, names in (("data set", self.data), ("method", [method.label for method in self.methods])):
            repeated = [name for name in names if list(names).count(name) > 1]
            if repeated:
                raise InputError(f"{kind} {repeated[0]!r} is given twice; give methods of different options a label")
        _check_seeds(self.seeds)
        if isinstance(self.trials, bool) or not isinstance(self.trials, int) or self.trials < 0:
            raise InputError(f"trials must be a whole number of at least 0, got {self.trials!r}")
        for condition in self.missing:
            rate = isinstance(condition, (int, float)) and 0 < condition < 1
            if not rate and condition not in (WITHOUT, ONLY):
                raise InputError(f"missing takes rates between 0 and 1, '{WITHOUT}' and '{ONLY}'; got {condition!r}")
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise UnknownNameError("protocol", protocol, PROTOCOLS)
        if CLEAN not in self.protocols:
            raise InputError(f"the {CLEAN} protocol is always part of a benchmark; add it to protocols")
        if all(method.fitted for method in self.methods):
            fusion = self.methods[0].options["fusion"]
            refuse_unused(fusion, *unused_by(fusion), self.settings)
        for method in self.methods:
            config = self.train_config(self.data[0], method, self.seeds[0])
            if config.ensemble is not None or config.cv is not None:
                raise InputError(f"a benchmark trains single models; leave ensemble and cv out of {method.label}")

    def train_config(
        self, data: str, method: Method, seed: int, protocol: str = CLEAN, tuned: Mapping[str, Any] | None = None
    ) -> TrainConfig:
        """The configuration of one training.

        Args:
            data: name or path of a data set.
            method: the method.
            seed: of everything random.
            protocol: how the model is selected.
            tuned: options that tuning has found, which win.
        """
        # What is set for all, and means nothing to this one, is none of its.
        settings = without_unused({**self.settings, "fusion": method.options["fusion"]})
        if method.fitted:
            settings = {name: value for name, value in settings.items() if name not in _OF_FUSIONS}
        options = merge(settings, method.options, dict(tuned or {}))
        return TrainConfig.from_dict({**options, "data": data, "seed": seed, "protocol": protocol})

    def to_dict(self) -> dict[str, Any]:
        """Plain values; :meth:`from_dict` reads them back."""
        methods = [
            {"label": m.label, **m.options, **({"space": m.space} if m.space else {})} if m.options else m.label
            for m in self.methods
        ]
        values: dict[str, Any] = {
            "data": list(self.data),
            "methods": methods,
            "seeds": list(self.seeds),
            "trials": self.trials,
            "missing": list(self.missing),
            "protocols": list(self.protocols),
            "settings": self.settings,
        }
        return values if self.space is None else {**values, "space": self.space}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BenchmarkConfig:
        """A configuration from plain values.

        Raises:
            UnknownNameError: a key that is none.
            InputError: a value does not fit, or there are no data sets or methods.
        """
        known = [*(f.name for f in fields(cls)), "variants"]
        for key in values:
            if key not in known:
                raise UnknownNameError("option of a benchmark:", str(key), known)
        seeds = values.get("seeds", 5)
        if isinstance(seeds, int):
            seeds = range(min(seeds, _MOST_SEEDS + 1))
        space = values.get("space")
        return cls(
            tuple(str(entry) for entry in _listed(values.get("data"), "data")),
            crossed([Method.of(m) for m in _listed(values.get("methods"), "methods")], values.get("variants") or {}),
            tuple(_listed(seeds, "seeds")),
            values.get("trials") or 0,
            tuple(_listed(values.get("missing"), "missing")),
            tuple(_listed(values.get("protocols", CLEAN), "protocols")),
            _settings(values),
            None if space is None else check_space(space),
        )

    @classmethod
    def from_options(
        cls, file: Path | None, options: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> BenchmarkConfig:
        """A configuration from a YAML file, overridden by options; paths of data become absolute.

        Args:
            file: YAML file, or None; paths in it are relative to its folder. In the place of ``data``, ``data_from``
                names another such file whose data it takes.
            options: options by name; None means not given.
            settings: training options, which win over those of the file one by one.

        Raises:
            DataError: the file is missing or is not YAML.
            UnknownNameError: an unknown key.
            InputError: a value does not fit.
        """
        values = {} if file is None else _with_data(read_config(file), file.parent)
        values |= {name: value for name, value in options.items() if value is not None}
        base = Path() if file is None or options.get("data") else file.parent
        data = _found_in(base, _listed(values.get("data"), "data"))
        return cls.from_dict({**values, "data": data, "settings": merge(_settings(values), settings or {})})


def crossed(methods: Iterable[Method], variants: Any) -> tuple[Method, ...]:
    """Every method with every variant of the training options; the methods themselves where there are no variants.

    Of variants that are the same to a method, since it has no use for what sets them apart, there is one.

    Example:
        >>> both = {"plain": {"unimodal": "none"}, "heads": {"unimodal": "loss"}}
        >>> [method.label for method in crossed([Method.of("deq"), Method.of("linear")], both)]
        ['deq, plain', 'deq, heads', 'linear']

    Args:
        methods: the methods.
        variants: name -> training options, which win over those of the method.

    Raises:
        InputError: the variants are no such mapping.
    """
    if not isinstance(variants, Mapping) or not all(isinstance(o, Mapping) or o is None for o in variants.values()):
        raise InputError(f"variants must map names to training options, got {variants!r}")
    if not variants:
        return tuple(methods)
    found: list[Method] = []
    for method in methods:
        own: list[Method] = []
        for name, options in variants.items():
            merged = without_unused(merge(method.options, options or {}))
            label = method.label if method.fitted and merged == method.options else f"{method.label}, {name}"
            if all(merged != other.options for other in own):
                own.append(Method(label, merged, method.space))
        found += own
    return tuple(found)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Options of several layers, later ones winning; mappings such as ``fusion_options`` are merged, not replaced."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            path, _, rest = name.partition(".")
            entry: Any = {rest: value} if rest else value
            before = merged.get(path)
            if isinstance(before, Mapping) and isinstance(entry, Mapping):
                entry = merge(before, entry)
            merged[path] = entry
    return merged


def _check_seeds(seeds: tuple[int, ...]) -> None:
    numbers = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
    if not seeds or not numbers or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must be different whole numbers, at least one; got {list(seeds)[:8]}")
    if len(seeds) > _MOST_SEEDS:
        raise InputError(f"at most {_MOST_SEEDS} seeds; a single number says how many, a list says which")


def _with_data(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values of a file with the data of the one that ``data_from`` names, if it does.

    Raises:
        DataError: that file is missing or is not YAML.
        InputError: it has no data, or both have.
    """
    if "data_from" not in values:
        return values
    if values.get("data"):
        raise InputError("data_from takes the data of another file; leave out data, or data_from")
    other = folder / str(values["data_from"])
    found = _listed(read_config(other).get("data"), "data")
    if not found:
        raise InputError(f"data_from: {other} names no data")
    return {name: value for name, value in values.items() if name != "data_from"} | {
        "data": _found_in(other.parent, found)
    }


def _found_in(folder: Path, data: Sequence[Any]) -> list[Any]:
    """Data sources, those that are paths in a folder as absolute ones."""
    return [str((folder / d).resolve()) if (folder / d).exists() else d for d in data]


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    settings = values.get("settings") or {}
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise InputError(f"settings must be a mapping of options, got {settings!r}")
    return dict(settings)


def _listed(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, (str, int, float, Mapping)):
        return [value]
    if not isinstance(value, Iterable):
        raise InputError(f"{name} must be a list, got {value!r}")
    return list(value)
