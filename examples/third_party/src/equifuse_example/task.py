"""A task: numbers of events, by Poisson regression."""

from typing import Any

from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from equifuse.tasks import Columns, Metric, Quantities, Task
from equifuse.tasks.base import average, needed


def error(rate: NDArray[Any], count: NDArray[Any]) -> float:
    """Mean absolute error."""
    return float(abs(rate - count).mean())


class Counts(Task):
    """Raw outputs are the logarithms of rates."""

    name, targets, headline = "counts", Quantities(), "error"
    measures = (Metric("error", error, higher_is_better=False),)

    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Negative log-likelihood, but for a constant."""
        return average(F.poisson_nll_loss(prediction, needed(target), reduction="none"), weight)

    def readable(self, prediction: Tensor, target: Tensor | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Rates and counts, for metrics."""
        return prediction.double().exp().numpy(), needed(target).double().numpy()

    def predict(self, prediction: Tensor) -> Columns:
        """A column of rates."""
        return {"prediction": prediction.double().exp()[:, 0].numpy()}
