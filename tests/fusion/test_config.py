"""A fusion says how it was made: what version 0.1 said by hand in every class, from the constructor's arguments."""

import copy
import json
import pickle
from pathlib import Path

import pytest

import equifuse as ef
from equifuse.registry import FUSIONS

DIMS = {"text": 6, "image": 8, "audio": 8}
EQUILIBRIUM = {
    "dim": 8,
    "combine": "mean",
    "solver": {"name": "broyden", "tol": 1e-5, "memory": 7},
    "gradient": {"name": "implicit", "solver": {"name": "anderson", "tol": 1e-6}},
    "jacobian_weight": 0.5,
    "spectral_weight": 0.25,
    "spectral_band": (0.5, 0.8),
    "residual_weight": 2.0,
    "contraction": 0.9,
    "mixed_precision": False,
    "strict": True,
    "modality_blocks": False,
    "gate": False,
}
# For each fusion, a value other than the default for each of its options, in one or several settings.
SETTINGS = {
    "bilinear": [{"dim": 4, "factors": 3, "dropout": 0.2}],
    "bottleneck": [{"dim": 8, "layers": 1, "heads": 2, "bottlenecks": 3, "dropout": 0.2}],
    "channel_exchange": [{"dim": 4, "layers": 1, "threshold": 0.1, "sparsity_weight": 0.0}],
    "concat": [{"dim": 4}],
    "cross_attention": [{"dim": 8, "layers": 1, "heads": 2, "tokens": 2, "dropout": 0.2}],
    "deq": [
        EQUILIBRIUM,
        {"dim": 8, "solver": "picard", "gradient": "unrolled", "iterations": 3},
        {"dim": 8, "gradient": {"name": "phantom", "steps": 2}, "weighted_sum_only": True},
        {"dim": 8, "tokens": "coupled"},
    ],
    "drfuse": [{"dim": 4, "alignment_weight": 0.0, "disentanglement_weight": 2.0}],
    "film": [{"dim": 4, "target": "image"}],
    "gmf": [
        {"form": "scfae", "expansion": 3, "boundary": 0.25, "reconstruction_weight": 0.0},
        {"backend": "deq", "backend_options": {"dim": 8, "solver": "picard"}},
        {"backend": "concat"},
    ],
    "gmu": [{"dim": 4}],
    "late": [{"outputs": 3, "combine": "probabilities"}],
    "linear": [{"outputs": 3}],
    "lowrank": [{"dim": 4, "rank": 2}],
    "mean": [{"dim": 4}],
    "meq": [EQUILIBRIUM, {"dim": 8, "iterations": 3}, {"dim": 8, "weighted_sum_only": True}],
    "misa": [{"dim": 8, "heads": 4, "similarity_weight": 0.0, "difference_weight": 0.5, "reconstruction_weight": 0.25}],
    "mm_dynamics": [
        {"outputs": 3, "dim": 4, "dropout": 0.0, "backend": "poe", "backend_options": {"dim": 4, "kl_weight": 0.5}},
        {"sparsity_weight": 0.5, "unimodal_weight": 0.0, "confidence_weight": 2.0},
    ],
    "mmtm": [{"ratio": 2}],
    "moe": [{"dim": 4, "kl_weight": 0.0}],
    "perceiver": [{"dim": 8, "layers": 1, "heads": 2, "latents": 3, "dropout": 0.2}],
    "poe": [{"dim": 4, "kl_weight": 0.5}],
    "qmf": [{"outputs": 3, "scale": 0.2, "unimodal_weight": 0.0, "ranking_weight": 2.0}],
    "scfae": [
        {"expansion": 3, "boundary": 0.25, "reconstruction_weight": 0.0},
        {"backend": "gmu", "backend_options": {"dim": 4}},
    ],
    "self_attention": [{"dim": 8, "layers": 1, "heads": 2, "dropout": 0.2}],
    "sum": [{"dim": 4}],
    "tensor": [{"dim": 2}],
    "tmc": [{"outputs": 3, "annealing": 10, "evidence_weight": 2.0, "kl_weight": 0.0}],
    "boosting": [{"outputs": 3, "trees": 7, "reading": "mean"}, {"roots": 2, "nodes": 9, "leaves": 5, "depth": 3}],
    "lightgbm": [{"outputs": 3, "trees": 7, "reading": "mean"}, {"roots": 2, "nodes": 9, "leaves": 5, "depth": 3}],
    "stacking": [
        {"outputs": 3, "reading": "classes"},
        {"bases": {m: {"name": "trees", "roots": 2, "nodes": 9} for m in DIMS}},
    ],
    "svm": [{"outputs": 3, "vectors": 4}],
    "trees": [
        {"outputs": 3, "kind": "boosting", "trees": 7},
        {"reading": "classes", "roots": 2, "nodes": 9, "leaves": 5, "depth": 3},
    ],
    "weight_tied": [{**EQUILIBRIUM, "iterations": 3}, {"dim": 8, "weighted_sum_only": True}],
    "weighted_sum": [{"dim": 4}],
}
CASES = [(name, number) for name in SETTINGS for number in range(-1, len(SETTINGS[name]))]
# Fusions that version 0.1 did not have.
LATER = ("boosting", "lightgbm", "linear", "stacking", "svm", "trees")
STORED = json.loads((Path(__file__).parents[1] / "fixtures" / "fusion_configs.json").read_text(encoding="utf-8"))


def made(name, number):
    return ef.make_fusion(name, DIMS, **(SETTINGS[name][number] if number >= 0 else {}))


def test_the_settings_are_of_all_fusions_of_this_library_and_all_options():
    ours = {name for name in FUSIONS if FUSIONS.get(name).__module__.startswith("equifuse.")}
    assert set(SETTINGS) == ours
    for name, settings in SETTINGS.items():
        set_here = {option for setting in settings for option in setting}
        set_here |= {"tokens"} if name in ("meq", "weight_tied") else set()  # as for deq
        assert set_here >= set(ef.fusion.fusion_options(name)) - {"projection"}, name


def without_later_options(config):
    """Without the options that version 0.1 did not have, at their defaults."""
    if not isinstance(config, dict):
        return config
    return {k: without_later_options(v) for k, v in config.items() if (k, v) != ("tokens", None)}


def test_every_fusion_of_version_0_1_has_a_stored_configuration():
    assert {name.split()[0] for name in STORED} == set(SETTINGS) - set(LATER)


@pytest.mark.parametrize(("name", "number"), [case for case in CASES if f"{case[0]} {case[1]}" in STORED])
def test_the_configuration_is_that_of_version_0_1(name, number):
    found = json.loads(json.dumps(made(name, number).config()))
    assert without_later_options(found) == STORED[f"{name} {number}"]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_fusion_made_from_a_configuration_or_copied_has_the_same(name, number):
    config = made(name, number).config()
    again = ef.make_fusion(**json.loads(json.dumps(config)))
    assert again.config() == config
    assert copy.deepcopy(again).config() == config
    assert pickle.loads(pickle.dumps(again)).config() == config
