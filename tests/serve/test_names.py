"""Names of modalities, columns, classes and ids that are text of any kind: served, or refused at training."""

import csv
import json
from urllib.parse import urlencode

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs equifuse[serve]")

import equifuse as ef
from equifuse.runs import predict_run
from tests.serve.conftest import JSON, client_of, trained

NAMES = (
    'say "5\' disk"',
    "back\\slash\\",
    "</script><script>x</script>",
    "$ref",
    "title",
    "größe 😀",
    "a[0]`b`",
    "x" * 300,
)
COLUMNS = ('"', "two\nlines", "__proto__", "\\")
CLASSES = ('it\'s "no"', "</b>&yés\\")


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A run on a table of such names, the table, and its rows without targets."""
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("named")
    columns = {f"{m}:{i}{column}": generator.normal(size=40) for m in NAMES for i, column in enumerate(COLUMNS[:2])}
    columns |= {f"{NAMES[0]}:{column}": generator.normal(size=40) for column in COLUMNS[2:]}
    rows = [{"id": f'"{i}\\', **{name: float(x[i]) for name, x in columns.items()}} for i in range(40)]
    for name, content in (
        ("table.csv", [r | {"label": CLASSES[i % 2]} for i, r in enumerate(rows)]),
        ("rows.csv", rows),
    ):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    options = {"fusion": "mean", "epochs": 1, "modality_dropout": 0.0, "unimodal": "none"}
    return trained(folder / "run", folder / "table.csv", **options), folder / "rows.csv", rows


@pytest.fixture(scope="module")
def client(named):
    return client_of(named[0])


def test_any_name_that_is_trained_on_is_served(named, client, tmp_path):
    run, file, rows = named
    about = client.get("/model").json()
    assert set(about["modalities"]) == set(NAMES)
    assert set(about["classes"]) == set(CLASSES)
    inner = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"][
        "application/json"
    ]
    assert set(inner["schema"]["properties"]["inputs"]["properties"]) == set(NAMES)
    for path in ("/", "/docs"):
        assert "<script>x" not in client.get(path).text
    expected = predict_run(run, file, tmp_path / "out.csv")["prediction"].tolist()

    first = {
        m: {name: row for name, row in rows[0].items() if name in about["modalities"][m]["features"]} for m in NAMES
    }
    by_modality = client.post("/predict", json={"inputs": {m: [row] for m, row in first.items()}})
    assert by_modality.json()["columns"]["prediction"] == expected[:1]
    by_row = client.post("/predict", json={"records": rows})
    assert by_row.json()["columns"]["prediction"] == expected
    assert by_row.json()["columns"]["id"] == [row["id"] for row in rows]
    as_file = client.post("/predict", content=file.read_bytes(), headers={"Content-Type": "text/csv"})
    assert as_file.json()["columns"]["prediction"] == expected
    query = urlencode({"output": CLASSES[1], "without": NAMES[0]})
    explained = client.post(f"/explain?{query}", json={"records": rows[:2]}).json()
    assert set(explained["contributions"]) == set(NAMES)
    assert explained["output"] == [CLASSES[1]] * 2


@pytest.mark.parametrize("m", NAMES)
def test_a_mistake_names_the_modality(client, m):
    answer = client.post("/predict", content=json.dumps({"inputs": {m: [[1.0]]}}), headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"inputs.{m}[0] must have "[:150])
    answer = client.post("/predict", content=json.dumps({"inputs": {f"{m}?": [[1.0]]}}), headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("unknown modality ")


@pytest.mark.parametrize("name", ["", "a.b", "a\nb", "\x1b[31m", "\0", "\udc80", "type", "keys", "training"])
def test_what_cannot_be_a_name_is_refused_at_training(name):
    with pytest.raises(ef.InputError) as refused:
        ef.build_model({name: 3, "b": 2}, "classification", 2, fusion="mean")
    assert "\n" not in str(refused.value)
    assert str(refused.value).isprintable()
