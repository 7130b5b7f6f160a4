"""One registry: what is registered or installed is found by name, and every mistake is named."""

import inspect
import json
import string
import sys
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import equifuse as ef
from equifuse.configurable import Configurable
from equifuse.fusion import Fusion, FusionOutput
from equifuse.registry import FUSIONS, GRADIENTS, SOLVERS, Registry
from equifuse.solve import Gradient, Solver, make_gradient, make_solver

words = st.text(string.ascii_lowercase + "_", min_size=1, max_size=12)


def part(name, **members):
    """A new class with that name, as if written in a module of its own."""
    return type(f"Part_{name}", (), {"name": name, **members})


@given(st.sets(words, max_size=8), words)
def test_what_is_registered_is_found_and_nothing_else(known, other):
    registry = Registry("part", group="equifuse.tests.none")
    parts = {name: registry.register(part(name)) for name in known}
    assert registry.names() == sorted(known) == list(registry)
    assert len(registry) == len(known)
    for name, kind in parts.items():
        assert name in registry
        assert registry.get(name) is kind
        assert isinstance(registry.make(name), kind)
        assert isinstance(registry.make({"name": name}), kind)
    assert (other in registry) == (other in known)
    if other not in known:
        with pytest.raises(ef.UnknownNameError) as caught:
            registry.get(other)
        assert repr(other) in str(caught.value)
        assert all(name in str(caught.value) for name in known)


@given(st.dictionaries(words, st.integers(), max_size=4))
def test_options_arrive_and_those_that_do_not_exist_are_refused(options):
    registry = Registry("part", group="equifuse.tests.none")

    @registry.register
    class Base:
        name = "base"

        def __init__(self, width, *, depth=1, height=2):
            self.given = {"width": width, "depth": depth, "height": height}

    @registry.register
    class Child(Base):
        name = "child"

        def __init__(self, width, *, colour="red", **options):
            super().__init__(width, **options)
            self.given["colour"] = colour

    assert registry.options("base") == ["width", "depth", "height"]
    assert registry.options("child") == ["width", "colour", "depth", "height"]
    assert registry.options("child", skip=1) == ["colour", "depth", "height"]
    assert registry.make("child", 3, colour="blue", depth=4).given == {
        "width": 3, "depth": 4, "height": 2, "colour": "blue",
    }  # fmt: skip
    unknown = set(options) - {"width", "depth", "height"}
    if unknown:
        with pytest.raises(ef.UnknownNameError, match="option of part 'base'"):
            registry.make("base", 1, **{name: options[name] for name in unknown})
    with pytest.raises(ef.UnknownNameError, match="did you mean 'height'"):
        registry.make({"name": "base", "hight": 3}, 1)
    with pytest.raises(ef.InputError, match="part 'base'.*width"):
        registry.make("base")


def test_objects_are_returned_as_they_are_and_take_no_options():
    registry = Registry("part", group="equifuse.tests.none")
    kind = registry.register(part("one"))
    made = kind()
    assert registry.make(made) is made
    with pytest.raises(ef.InputError, match="options go with a part given by name"):
        registry.make(made, depth=1)
    with pytest.raises(ef.InputError, match=r"not as a class; write Part_one\(\)"):
        registry.make(kind)
    with pytest.raises(ef.InputError, match="need its 'name'"):
        registry.make({"depth": 1})


def test_functions_and_objects_are_parts_too():
    registry = Registry("part", group="equifuse.tests.none")

    @registry.register(name="double")
    def double(value):
        return 2 * value

    constant = registry.register(part("seven")())
    assert registry.make("double") is double
    assert registry.make("seven") is constant
    assert registry.parts() == [double, constant]
    with pytest.raises(ef.UnknownNameError, match="option of part 'double'"):
        registry.make("double", factor=3)


def test_a_name_is_taken_once_but_the_same_class_may_be_defined_again():
    registry = Registry("part", group="equifuse.tests.none")

    def cell():
        @registry.register
        class Mine:
            name = "mine"

        return Mine

    cell()
    again = cell()
    assert registry.get("mine") is again
    with pytest.raises(ef.InputError, match="'mine' is already registered"):
        registry.register(part("mine"))
    with pytest.raises(ef.InputError, match="needs a class attribute 'name'"):
        registry.register(type("Nameless", (), {}))
    assert registry.get("mine") is again


def test_a_home_that_cannot_be_imported_is_named_every_time():
    registry = Registry("part", group="equifuse.tests.none", home="equifuse.no_such_package")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_package"):
            registry.names()


# --- installed packages -------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that installs a package of one module with entry points, as pip would."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(package, code, points):
        (tmp_path / f"{package}.py").write_text(code, encoding="utf-8")
        about = tmp_path / f"{package}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (about / "entry_points.txt").write_text("\n".join(["[equifuse.tests]", *lines, ""]), encoding="utf-8")
        monkeypatch.delitem(sys.modules, package, raising=False)
        return Registry("part", group="equifuse.tests")

    yield install
    for module in [name for name in sys.modules if name.startswith("pack_")]:
        del sys.modules[module]


def test_an_installed_part_is_imported_when_it_is_asked_for(installed):
    registry = installed("pack_good", "class Good:\n    name = 'good'\n", {"good": "pack_good:Good"})
    assert "good" in registry
    assert registry.names() == ["good"]
    assert "pack_good" not in sys.modules
    assert type(registry.make("good")).__name__ == "Good"
    with pytest.raises(ef.UnknownNameError, match="did you mean 'good'"):
        registry.get("goood")


def test_a_broken_package_is_named_and_does_not_hide_the_others(installed):
    installed("pack_good", "class Good:\n    name = 'good'\n", {"good": "pack_good:Good"})
    registry = installed(
        "pack_broken", "import no_such_thing\n", {"bad": "pack_broken:Bad", "gone": "pack_broken:Gone"}
    )
    with pytest.raises(
        ef.EquifuseError, match=r"part 'bad' of package 'pack_broken' cannot be imported.*no_such_thing"
    ):
        registry.get("bad")
    with pytest.warns(UserWarning, match="pack_broken"):
        parts = registry.parts()
    assert [kind.__name__ for kind in parts] == ["Good"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.parts() == parts  # said once


def test_an_entry_point_and_its_class_have_the_same_name(installed):
    """Or else what is stored under the one could not be loaded by the other."""
    registry = installed("pack_named", "class Good:\n    name = 'good'\n", {"other": "pack_named:Good"})
    with pytest.raises(ef.EquifuseError, match="'other' of package 'pack_named'.*another name"):
        registry.get("other")


def test_two_packages_that_offer_the_same_name_are_both_named(installed):
    installed("pack_one", "class Good:\n    name = 'good'\n", {"good": "pack_one:Good"})
    registry = installed("pack_two", "class Good:\n    name = 'good'\n", {"good": "pack_two:Good"})
    with pytest.raises(ef.EquifuseError, match=r"'pack_(one|two)' and 'pack_(one|two)' both offer"):
        registry.get("good")


def test_a_package_cannot_replace_what_is_there(installed):
    registry = installed("pack_good", "class Good:\n    name = 'good'\n", {"good": "pack_good:Good"})
    own = registry.register(part("good"))
    with pytest.warns(UserWarning, match="of package 'pack_good' is not used"):
        assert registry.names() == ["good"]
    assert registry.get("good") is own


# --- solvers, gradients and fusions from outside --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Slow(Solver):
    """Plain steps of half the length."""

    name = "slow"
    share: float = 0.5
    inner: Solver = field(default_factory=ef.Picard)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "inner", make_solver(self.inner))  # a stored one is a mapping

    def start(self, z, after=None):
        return ef.Picard(damping=self.share).start(z)


class Straight(Gradient):
    """The gradient of one evaluation, by a class that is no dataclass."""

    name = "straight"

    def __init__(self, scale=1.0, *, tags=()):
        self.scale, self.tags = scale, list(tags)

    def attach(self, f, z, stats, solver):
        return z.detach() + self.scale * (f(z.detach()) - f(z.detach()).detach())


class Averaged(Fusion):
    """The mean of the modalities that are there."""

    name = "averaged"

    def __init__(self, dims, *, scale=1.0, solver=None):
        super().__init__(dims)
        self.out_dim, self.scale = next(iter(dims.values())), scale
        self.solver = make_solver(solver or "picard")

    def fuse(self, rows):
        return FusionOutput(self.scale * torch.stack(list(rows.values.values())).mean(0), dict(rows.values))


@pytest.fixture
def outside(monkeypatch):
    for registry, kind in ((SOLVERS, Slow), (GRADIENTS, Straight), (FUSIONS, Averaged)):
        registry.names()
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))
        registry.register(kind)


def test_parts_from_outside_work_by_name_and_are_stored(outside, tmp_path):
    assert make_solver({"name": "slow", "tol": 1e-3}) == Slow(tol=1e-3)
    options = {"dim": 8, "solver": {"name": "slow", "share": 0.9}, "gradient": {"name": "straight", "scale": 2.0}}
    model = ef.build_model({"a": (4,), "b": (3,)}, "classification", 2, fusion="deq", fusion_options=options)
    model.save(tmp_path / "model")
    again = ef.load(tmp_path / "model")
    assert again.fusion.solver == Slow(share=0.9)
    assert again.fusion.solver.config()["inner"] == ef.Picard().config()
    assert again.fusion.gradient.config() == {"name": "straight", "scale": 2.0, "tags": []}
    x = {"a": torch.randn(5, 4), "b": torch.randn(5, 3)}
    assert torch.equal(model.eval()(x).prediction, again.eval()(x).prediction)
    model.train()(x).prediction.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.fusion.parameters())


def test_a_fusion_from_outside_needs_no_words_about_its_options(outside):
    made = ef.make_fusion("averaged", {"a": 4, "b": 4}, scale=3.0, solver={"name": "slow", "share": 0.25})
    config = made.config()
    assert config["dims"] == {"a": 4, "b": 4}
    assert config["scale"] == 3.0
    again = ef.make_fusion(**json.loads(json.dumps(config)))
    assert again.solver == made.solver
    with pytest.raises(ef.InputError, match="a solver is a Solver, its name"):
        ef.make_fusion("averaged", {"a": 4}, solver=3)


# --- what says how it was made ----------------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


class Thing(Configurable):
    name = "thing"

    def __init__(self, first, second=2, *, third=None):
        self.seen = (first, second, third)


class Wider(Thing):
    name = "wider"

    def __init__(self, first, *, fourth=4, second=5, **options):
        super().__init__(first, second, **options)
        self.fourth = fourth


@given(plain, plain, plain)
def test_a_configuration_makes_the_same_object_anew(first, second, third):
    made = Thing(first, second, third=third)
    config = made.config()
    assert config == {"name": "thing", "first": first, "second": second, "third": third}
    again = Thing(**{key: value for key, value in json.loads(json.dumps(config)).items() if key != "name"})
    assert again.seen == made.seen
    assert again.config() == config
    assert Thing(first).config()["second"] == 2


@given(plain, plain)
def test_options_that_are_passed_on_are_described_too(first, third):
    config = Wider(first, third=third).config()
    assert config == {"name": "wider", "first": first, "fourth": 4, "second": 5, "third": third}


def test_later_changes_of_an_argument_do_not_matter_and_nested_objects_are_described():
    words = ["a"]
    made = Thing(words, (1, 2), third=Thing(torch.tensor(1.5)))
    words.append("b")
    inner = {"name": "thing", "first": 1.5, "second": 2, "third": None}
    assert made.config() == {"name": "thing", "first": ["a"], "second": [1, 2], "third": inner}


def test_what_cannot_be_stored_is_named():
    with pytest.raises(ef.InputError, match="option 'first' of 'thing' is a function, which cannot be stored"):
        Thing(lambda: 0).config()


def test_signatures_stay_what_they_are():
    """Help and completion go by them."""
    assert list(inspect.signature(Thing).parameters) == ["first", "second", "third"]
    assert list(inspect.signature(ef.Anderson).parameters)[:2] == ["tol", "max_steps"]
    assert next(iter(inspect.signature(ef.DEQFusion).parameters)) == "dims"
    assert list(inspect.signature(Fusion).parameters) == ["dims"]


def test_a_gradient_by_name_takes_a_solver_by_name():
    assert make_gradient({"name": "implicit", "solver": "anderson"}) == ef.Implicit(solver=ef.Anderson())
    with pytest.raises(ef.UnknownNameError, match="solver 'andersen'; did you mean 'anderson'"):
        make_gradient({"name": "implicit", "solver": "andersen"})
