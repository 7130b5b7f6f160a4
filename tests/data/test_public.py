"""What is said about public data sets, and the recipes that train on them."""

from pathlib import Path

import pytest

from equifuse.registry import PUBLIC_SETS
from equifuse.runs import TrainConfig

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.parametrize("public", PUBLIC_SETS.parts(), ids=lambda public: public.name)
def test_every_public_set_has_a_recipe_and_says_what_to_download(public):
    config = TrainConfig.from_options(RECIPES / f"{public.name}.yaml", {})
    assert config.fusion in ("deq", "gmf")
    text = "\n".join(public.instructions())
    assert all(file.name in text and file.source in text for file in public.files)
    assert public.licence in text
    assert (public.data or public.name) == config.data


def test_every_recipe_is_of_a_public_set():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(PUBLIC_SETS.names())
