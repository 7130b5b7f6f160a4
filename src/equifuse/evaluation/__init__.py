"""What a trained model is worth: whole, with modalities missing, with damaged inputs."""

from equifuse.evaluation.evaluate import evaluate_model

__all__ = ["evaluate_model"]
