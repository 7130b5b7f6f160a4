"""The same number of trials for every method, judged on validation; Optuna proposes."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Any

from equifuse.benchmark.space import Space, suggest
from equifuse.errors import InputError

if TYPE_CHECKING:  # an extra
    from optuna.study import Study


class Tuning:
    """The trials of one method on one data set, one after the other; goes on from any number of finished ones.

    The first trial is the defaults. The proposals depend on the data set's name, the trial's number and the results so
    far, not on the method: until Optuna's sampler has seen enough to learn from, methods with the same space are tried
    with the same settings.

    Args:
        data: name of the data set, which seeds the proposals.
        space: what is tuned.
        trials: how many there are.

    Raises:
        InputError: Optuna is not installed.
    """

    def __init__(self, data: str, space: Space, trials: int) -> None:
        self.data, self.space, self.trials = data, space, trials
        self.study = _study()
        self.finished_trials = 0
        self.best: tuple[float, dict[str, Any]] | None = None
        self._asked: Any = None

    @property
    def finished(self) -> bool:
        """Whether all trials are finished."""
        return self.finished_trials >= self.trials

    def ask(self) -> dict[str, Any]:
        """The options of the next trial."""
        if self.finished_trials == 0:
            return {}
        from optuna.samplers import TPESampler  # noqa: PLC0415

        # Seeded anew for every trial: a study that was interrupted goes on as if it had not been.
        self.study.sampler = TPESampler(seed=_seed(self.data, self.finished_trials))
        self._asked = self.study.ask()
        return suggest(self._asked, self.space)

    def tell(self, options: dict[str, Any], value: float | None) -> None:
        """Take in the result of the trial that was asked for; None where it failed."""
        if self._asked is not None:
            if value is None:
                from optuna.trial import TrialState  # noqa: PLC0415

                self.study.tell(self._asked, state=TrialState.FAIL)
            else:
                self.study.tell(self._asked, value)
        self._asked = None
        self.finished_trials += 1
        if value is not None and (self.best is None or value < self.best[0]):
            self.best = (value, options)


def _seed(data: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{data}/{number}".encode()).digest()[:4], "big")


def _study() -> Study:
    try:
        import optuna  # noqa: PLC0415
    except ImportError:
        raise InputError("tuning needs Optuna: pip install 'equifuse[tune]', or trials: 0") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.create_study(direction="minimize")
