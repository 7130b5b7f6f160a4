"""How Lightning's trainer is set up, and kept quiet."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from equifuse.errors import ConvergenceWarning
from equifuse.interruption import Interrupted, stop_signals
from equifuse.training.distributed import ProcessGroupInfo
from equifuse.training.options import TrainingOptions

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback


def began_yet() -> Any:
    """A callback that knows whether training has begun, so that what fails before is the checkpoint's fault."""
    from lightning.pytorch.callbacks import Callback  # noqa: PLC0415

    class Began(Callback):
        training = False

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.training = True

    return Began()


def keeps_checkpoints(callbacks: Sequence[Callback]) -> bool:
    """Whether one of the callbacks writes checkpoints of its own."""
    from lightning.pytorch.callbacks import Checkpoint  # noqa: PLC0415

    return any(isinstance(callback, Checkpoint) for callback in callbacks)


def strategy(options: TrainingOptions, place: ProcessGroupInfo) -> Any:
    """How several processes train one model."""
    from lightning.pytorch.strategies import DDPStrategy  # noqa: PLC0415

    if options.strategy == "fsdp":
        return "fsdp"
    if place.world == 1:
        return "auto"
    # A batch without a modality leaves its encoder without a gradient.
    return DDPStrategy(find_unused_parameters=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's banners and hints away; unconverged samples are counted in the history instead."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning(\.|$)")
            warnings.simplefilter("ignore", ConvergenceWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """A signal that asks to stop ends training as it ends anything else.

    Lightning makes ``SystemExit`` of it, with code 0 for SIGTERM, and leaves Ctrl-C switched off.

    Raises:
        Interrupted: there was one.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException  # noqa: PLC0415

    handler = signal.getsignal(signal.SIGINT)
    try:
        with stop_signals():
            yield
    except SIGTERMException:
        raise Interrupted("SIGTERM") from None
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise stop.__context__ from None
        raise
    finally:
        # What was ignored before, as in the background, stays ignored; and only the main thread may ask.
        switched_off = signal.getsignal(signal.SIGINT) is signal.SIG_IGN and handler is not signal.SIG_IGN
        if switched_off and not sys.is_finalizing() and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
