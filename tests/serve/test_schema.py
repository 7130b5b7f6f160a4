"""The service against its own description, by schemathesis: what it accepts, refuses and answers is what it says."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.serve.conftest import client_of

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

OPERATIONS = [
    ("POST", "/predict"),
    ("POST", "/explain"),
    ("POST", "/embed"),
    ("POST", "/v1/models/run/predict"),
    ("POST", "/v1/models/run/explain"),
    ("POST", "/v1/models/run/embed"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/run"),
    ("GET", "/ready"),
    ("GET", "/health"),
    ("GET", "/model"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def schema(sequences):
    return schemathesis.openapi.from_asgi("/openapi.json", client_of(sequences, max_rows=3, max_explained=2).app)


@pytest.mark.slow
def test_every_path_is_tried(schema):
    found = {(result.ok().method.upper(), result.ok().path) for result in schema.get_all_operations()}
    assert found == set(OPERATIONS)


# Nothing could be wrong in a request without a body.
MODES = [("positive", *operation) for operation in OPERATIONS if "/run/" not in operation[1]] + [
    ("negative", *operation) for operation in OPERATIONS[:3]
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
