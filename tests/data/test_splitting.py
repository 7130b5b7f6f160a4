import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import equifuse as ef
from equifuse.data.split import folds, partition


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(3, 300), classes=st.integers(1, 6), val=st.floats(0.05, 0.4), test=st.floats(0.05, 0.4))
def test_parts_are_disjoint_cover_everything_and_keep_every_class_in_the_first(rows, classes, val, test):
    labels = np.random.default_rng(rows).integers(0, classes, rows)
    parts = partition(rows, (1 - val - test, val, test), seed=1, labels=labels)
    assert sorted(np.concatenate(parts)) == list(range(rows))
    assert set(labels[parts[0]]) == set(labels)
    counts = np.bincount(labels)[np.unique(labels)]
    for part, share in zip(parts[1:], (val, test), strict=True):
        assert len(part) <= share * rows + 0.5
        if counts.min() * (1 - val - test) > 3:  # no class is so rare that it has to stay in the first part
            assert len(part) >= share * rows - 0.5
        for label in set(labels):
            assert abs((labels[part] == label).sum() - share * (labels == label).sum()) < 2


@pytest.mark.parametrize("each", [2, 3, 7])
def test_of_many_small_classes_as_much_is_held_out_as_asked_for(each):
    labels = np.repeat(np.arange(100), each)
    train, val = partition(len(labels), (0.8, 0.2), labels=labels)
    assert len(val) == round(0.2 * len(labels))
    assert set(labels[train]) == set(labels)
    assert set(np.bincount(labels[val], minlength=100)) <= {int(0.2 * each), int(0.2 * each) + 1}


@settings(max_examples=30, deadline=None)
@given(groups=st.integers(10, 60), classes=st.integers(1, 3), seed=st.integers(0, 3))
def test_groups_stay_together_with_the_right_share_and_every_class_in_training(groups, classes, seed):
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), generator.integers(1, 6, groups))
    labels = (group % classes).astype(str)
    train, test = partition(len(group), (0.8, 0.2), seed=seed, labels=labels, groups=group)
    assert not set(group[train]) & set(group[test])
    assert sorted([*train, *test]) == list(range(len(group)))
    assert set(labels[train]) == set(labels)
    assert abs(len(test) - 0.2 * len(group)) <= 5  # the largest group


def test_by_order_the_test_part_is_the_latest_and_equal_times_stay_together():
    day = np.array(["2026-03-01", "2026-01-01", "2026-02-01", "2026-02-01", "2026-04-01"], "datetime64[D]")
    train, val, test = partition(5, (0.6, 0.2, 0.2), order=day)
    assert day[train].max() < day[val].min() <= day[val].max() < day[test].min()
    assert train.tolist() == [1, 2, 3]


@pytest.mark.parametrize("by", ["labels", "groups", "order"])
def test_folds_test_on_every_row_once_and_keep_what_they_are_asked_to(by):
    values = np.repeat(np.arange(12), 5)
    found = list(folds(60, 4, seed=1, **{by: values}))
    tested = np.concatenate([test for _, test in found])
    for train, test in found:
        assert not set(train) & set(test)
        if by == "groups":
            assert not set(values[train]) & set(values[test])
        elif by == "labels":
            assert set(values[train]) == set(values[test]) == set(values)
        else:
            assert values[train].max() < values[test].min()
    if by != "order":  # the oldest rows are never tested on
        assert sorted(tested) == list(range(60))


def test_leaving_one_group_out():
    site = np.array(["a", "b", "b", "c"])
    assert [set(site[test]) for _, test in folds(4, None, groups=site)] == [{"a"}, {"b"}, {"c"}]
    with pytest.raises(ef.InputError, match="--group"):
        list(folds(4, None))
    with pytest.raises(ef.InputError, match="3 groups do not make 5 folds"):
        list(folds(4, 5, groups=site))


TABLE = "id,patient,site,day,label,a:x,b:y\n" + "".join(
    f"r{i},p{i // 4},s{i % 3},2026-{1 + i // 10:02d}-{1 + i % 10:02d},{i // 4 % 2},{i % 7},{i % 5}\n"
    for i in range(120)
)


@pytest.fixture
def table(tmp_path):
    (tmp_path / "table.csv").write_text(TABLE, encoding="utf-8")
    return tmp_path / "table.csv"


def test_a_table_is_split_by_its_columns(table):
    def parts(**source):
        return ef.datasets.load(table, source={"modalities": {"a": "a:*", "b": "b:*"}, **source})

    data = parts(group="patient")
    patients = [set(data.splits[part].columns["patient"]) for part in ("train", "val", "test")]
    assert sum(len(found) for found in patients) == 30 == len(set.union(*patients))
    assert 20 <= len(data.splits["test"]) <= 28
    assert data.drawn == ("val", "test")
    sites = parts(stratify=["site"]).splits["test"].columns["site"]
    assert sorted((sites == s).sum() for s in ("s0", "s1", "s2")) == [8, 8, 8]
    data = parts(order="day")
    days = [data.splits[part].columns["day"] for part in ("train", "val", "test")]
    assert days[0].max() < days[1].min() <= days[1].max() < days[2].min()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"group": "pateint"}, "no column 'pateint'"),
        ({"order": "patient"}, "write dates as"),
        ({"order": "day", "group": "patient"}, "neither group nor stratify"),
        ({"group": "patient", "split": "part"}, "is in train and in test"),
    ],
)
def test_columns_that_cannot_split_are_refused(table, source, says):
    lines = table.read_text(encoding="utf-8").splitlines()
    part = ["part", *(["train", "test"] * 60)]
    table.write_text("\n".join(f"{line},{p}" for line, p in zip(lines, part, strict=True)), encoding="utf-8")
    with pytest.raises(ef.EquifuseError, match=says):
        ef.datasets.load(table, source={"modalities": {"a": "a:*", "b": "b:*"}, "target": "label", **source})


def test_a_survival_part_has_its_share_of_events(tmp_path):
    lines = ["id,time,event,a:x", *(f"r{i},{i + 1},{int(i % 10 == 0)},{i % 7}" for i in range(100))]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    source = {"modalities": {"a": "a:*"}, "target": ["time", "event"], "task": "survival"}
    data = ef.datasets.load(tmp_path / "t.csv", source=source)
    assert [int(data.splits[part].target[:, 1].sum()) for part in ("train", "val", "test")] == [6, 2, 2]


def test_the_same_seed_gives_the_same_parts_and_another_one_others():
    first, again, other = (partition(100, (0.8, 0.2), seed=s) for s in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize("fractions", [(0.5, 0.6), (1.0, 0.0), (1.2, -0.2)])
def test_unusable_fractions_are_refused(fractions):
    with pytest.raises(ef.DataError, match="add up to 1"):
        partition(10, fractions)
