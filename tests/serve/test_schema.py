"""The service against its own description, by schemathesis: what it accepts, refuses and answers is what it says."""

import pytest
from hypothesis import HealthCheck, given, settings

from equifuse.serve import create_app

pytest.importorskip("fastapi", reason="needs equifuse[serve]")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

OPERATIONS = [
    ("POST", "/predict"),
    ("POST", "/explain"),
    ("GET", "/health"),
    ("GET", "/model"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def schema(sequences):
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(sequences, max_rows=3, max_explained=2))


@pytest.mark.slow
def test_every_path_is_tried(schema):
    found = {(result.ok().method.upper(), result.ok().path) for result in schema.get_all_operations()}
    assert found == set(OPERATIONS)


# Nothing could be wrong in a request without a body.
MODES = [("positive", *operation) for operation in OPERATIONS] + [
    ("negative", *operation) for operation in OPERATIONS[:2]
]


@pytest.mark.parametrize(("mode", "method", "path"), MODES)
@pytest.mark.slow
def test_the_service_is_as_described(schema, mode, method, path):
    # JSON schema cannot say that all modalities have as many rows, nor what is valid Parquet.
    beyond = [schemathesis.checks.positive_data_acceptance]

    @settings(max_examples=25 if method == "POST" else 2, deadline=None, suppress_health_check=list(HealthCheck))
    @given(schema[path][method].as_strategy(schemathesis.GenerationMode(mode)))
    def check(case):
        case.call_and_validate(excluded_checks=beyond)

    check()
