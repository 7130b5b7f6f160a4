"""What a student learns from beside the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from equifuse.data.batch import Batch
from equifuse.errors import InputError

if TYPE_CHECKING:
    from equifuse.tasks.base import Task


@dataclass(frozen=True)
class SoftTargets:
    """What a teacher says of the training samples, for a student's loss.

    Attributes:
        outputs: raw, by the samples' numbers: ``(n, ...)``.
        temperature: see :meth:`Task.soft_loss`.
        share: of the loss against them, in (0, 1].
    """

    outputs: Tensor
    temperature: float
    share: float

    def joined(self, task: Task, prediction: Tensor, batch: Batch, loss: Tensor) -> Tensor:
        """The loss of a batch against its targets and against what the teacher says.

        Raises:
            InputError: the samples have no numbers.
        """
        if batch.index is None:
            raise InputError("a student's samples need the numbers that its teacher saw them under")
        taught = self.outputs[batch.index.cpu()].to(prediction)
        soft = task.soft_loss(prediction, taught, self.temperature, batch.weight)
        return (1 - self.share) * loss + self.share * soft
