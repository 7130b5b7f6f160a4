"""Loggers by name: where the numbers of each epoch go beside the history. Those of Lightning, made for a run folder.

One of your own is a function that is called with the run folder and a mapping of options. It is registered by a name,
or named by an entry point of the group ``equifuse.loggers``:

Example:
    >>> from lightning.pytorch.loggers import CSVLogger
    >>> from equifuse.registry import LOGGERS
    >>> @LOGGERS.register(name="numbers")
    ... def numbers(out, options):
    ...     return CSVLogger(out, **options)
    >>> "numbers" in LOGGERS
    True
    >>> LOGGERS.unregister("numbers")
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from equifuse.errors import EquifuseError, InputError, UnknownNameError
from equifuse.extras import require
from equifuse.registry import LOGGERS

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


class LoggerFactory(Protocol):
    """Makes a logger of Lightning's kind for a run folder, from options that the user gave."""

    def __call__(self, out: Path, options: Mapping[str, Any], /) -> Logger:
        """The logger; nothing is written before it is used."""
        ...


@LOGGERS.register(name="csv")
def csv(out: Path, options: Mapping[str, Any]) -> Logger:
    """``logs/version_0/metrics.csv`` in the run folder, a version for each time that the run goes on."""
    return _lightning("CSVLogger", {"save_dir": str(out), "name": "logs", "flush_logs_every_n_steps": 1}, options)


@LOGGERS.register(name="tensorboard")
def tensorboard(out: Path, options: Mapping[str, Any]) -> Logger:
    """Event files in the folder ``tensorboard`` of the run folder; needs the package tensorboard."""
    return _lightning("TensorBoardLogger", {"save_dir": str(out), "name": "tensorboard"}, options)


@LOGGERS.register(name="wandb")
def wandb(out: Path, options: Mapping[str, Any]) -> Logger:
    """Weights & Biases; needs the package wandb."""
    return _lightning("WandbLogger", {"save_dir": str(out), "name": out.name}, options)


@LOGGERS.register(name="mlflow")
def mlflow(out: Path, options: Mapping[str, Any]) -> Logger:
    """MLflow, in the run folder's ``mlruns`` unless there is a ``tracking_uri``; needs the package mlflow."""
    where = {} if "tracking_uri" in options else {"save_dir": str(out / "mlruns")}
    return _lightning("MLFlowLogger", {**where, "run_name": out.name}, options)


def make_loggers(
    given: str | Logger | Sequence[str | Logger], out: Path | None, options: Mapping[str, Any] | None = None
) -> list[Any]:
    """Loggers from names and from what is one already.

    Args:
        given: names in ``equifuse.registry.LOGGERS``, Lightning loggers, or both.
        out: run folder of those given by name.
        options: of the logger; of several, name -> options.

    Raises:
        UnknownNameError: no such logger, or an option that it does not have.
        InputError: there is no folder, or a package is missing.
    """
    entries = [given] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
    names = [entry for entry in entries if isinstance(entry, str)]
    options = dict(options or {})
    if len(names) > 1 and not all(key in names and isinstance(value, Mapping) for key, value in options.items()):
        raise InputError(f"with several loggers, each option has the name of its logger: {names[0]}.option=value")
    if names and out is None:
        raise InputError(f"logger {names[0]!r} needs a folder; give 'out'")
    made: list[Any] = []
    for entry in entries:
        if not isinstance(entry, str):
            made.append(entry)
            continue
        assert out is not None
        factory: Any = LOGGERS.get(entry)
        own = options if len(names) == 1 else options.get(entry, {})
        try:
            made.append(factory(out, own))
        except EquifuseError:
            raise
        except ImportError as error:
            raise InputError(f"logger {entry!r} needs the package {entry}: pip install {entry} ({error})") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"logger {entry!r}: {error}") from error
    return made


def _lightning(kind: str, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> Logger:
    """One of Lightning's loggers; options win over our defaults."""
    require("train", "lightning", "a logger")
    from lightning.pytorch import loggers  # noqa: PLC0415

    cls = getattr(loggers, kind)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    if all(p.kind is not p.VAR_KEYWORD for p in parameters):  # else they go to the package behind it
        for name in options:
            if name not in [p.name for p in parameters]:
                raise UnknownNameError(f"option of {kind}:", str(name), [p.name for p in parameters])
    logger: Logger = cls(**{**defaults, **options})
    return logger
