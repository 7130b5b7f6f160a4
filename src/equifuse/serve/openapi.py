"""The service in the words of OpenAPI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import equifuse
from equifuse.serve.messages import CSV, JSON, PARQUET, Loaded, Served

_REFUSALS = {
    400: "The body is damaged.",
    406: "The answer cannot be given in the media type that Accept asks for.",
    408: "The body did not arrive in time.",
    413: "The body is too large, or what it unfolds to is.",
    415: "The body is of an unknown media type.",
    422: "The body does not fit the model, or has too many rows.",
    503: "Too many requests are waiting, or the worker died; Retry-After says for how many seconds to wait.",
    504: "The request took too long.",
}
_SUMMARIES = {
    "predict": "Predict rows: the columns of 'equifuse predict', as JSON or Parquet.",
    "explain": "What each modality contributed to a value of each row: Shapley values over the subsets of modalities.",
    "embed": "What the model makes of each row: the fused vector, and those of the modalities.",
}
_BESIDE: dict[str, dict[str, Any]] = {
    "coverage": {
        "name": "coverage",
        "in": "query",
        "schema": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "description": "Intervals of values, or sets of classes, that hold this share of the truths.",
    },
    "survival_at": {
        "name": "survival_at",
        "in": "query",
        "schema": {"type": "array", "items": {"type": "number", "minimum": 0}, "maxItems": 100},
        "description": "A time at which to give the chance that the event is later; may be repeated.",
    },
}
_PROBLEM = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
_BINARY = {"type": "string", "format": "binary"}


def openapi(loaded: Loaded, names: Sequence[str], explain: bool, keys: bool) -> dict[str, Any]:
    """The description of a service.

    Args:
        loaded: its models.
        names: their names, in order; the first is the one of the paths without a name.
        explain: whether there are explanations.
        keys: whether they are needed.
    """
    paths: dict[str, Any] = {}
    for i, name in enumerate(names):
        served = loaded.models[name]
        prefixes = [f"/v1/models/{quote(name)}", *([""] if i == 0 else [])]
        for prefix in prefixes:
            paths |= _of_model(served, prefix, "" if not prefix else f"_{i}", explain, keys)
    simple = {
        "/health": "Whether the service is up, what it serves, and its versions.",
        "/v1/models": "What the models take and give.",
        **({f"/v1/models/{quote(names[i])}": "What the model takes and gives." for i in range(len(names))}),
        "/model": "What the first model takes and gives.",
    }
    for path, summary in simple.items():
        paths[path] = {"get": _got(path, summary, {JSON: {"schema": {"type": "object"}}}, keys and path != "/health")}
    paths["/ready"] = {
        "get": _got("/ready", "Whether a worker is ready.", {JSON: {"schema": {"type": "object"}}}, False)
    }
    paths["/ready"]["get"]["responses"]["503"] = _problem("No worker is ready.")
    text = {"text/plain": {"schema": {"type": "string"}}}
    paths["/metrics"] = {"get": _got("/metrics", "Numbers for Prometheus.", text, keys)}
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": f"equifuse: {', '.join(names)}", "version": equifuse.__version__},
        "paths": paths,
    }
    if keys:
        schemes = {"bearer": {"type": "http", "scheme": "bearer"}}
        found |= {"components": {"securitySchemes": schemes}, "security": [{"bearer": []}]}
    return found


def _of_model(served: Served, prefix: str, suffix: str, explain: bool, keys: bool) -> dict[str, Any]:
    paths = {}
    for kind, request in served.requests.items():
        if kind == "explain" and not explain:
            continue
        content: dict[str, Any] = {JSON: {"schema": served.responses[kind]}}
        if kind == "predict":
            content[PARQUET] = {"schema": _BINARY}
        body = {JSON: {"schema": request}, CSV: {"schema": {"type": "string"}}, PARQUET: {"schema": _BINARY}}
        refusals = {str(status): _problem(text) for status, text in _REFUSALS.items()}
        if keys:
            refusals["401"] = _problem("No API key, or an unknown one.")
        operation: dict[str, Any] = {
            "operationId": f"{kind}{suffix}",
            "summary": _SUMMARIES[kind],
            "requestBody": {"required": True, "content": body},
            "responses": {"200": {"description": "The answer.", "content": content}, **refusals},
        }
        operation["parameters"] = [_without(served), *(_options(served) if kind == "explain" else [])]
        operation["parameters"] += [_BESIDE[name] for name in served.beside] if kind == "predict" else []
        paths[f"{prefix}/{kind}"] = {"post": operation}
    return paths


def _without(served: Served) -> dict[str, Any]:
    schema = {"type": "array", "items": {"type": "string", "enum": list(served.description["modalities"])}}
    description = "A modality to leave out of all rows, as if it were missing; may be repeated."
    return {"name": "without", "in": "query", "schema": schema, "description": description}


def _options(served: Served) -> list[dict[str, Any]]:
    """The query of an explanation."""
    value = {"type": "string", "enum": served.values, "default": served.values[0]}
    output = {"type": "string", "enum": served.outputs}
    description = "The class, label or target whose value is explained; default the one predicted."
    return [
        {"name": "value", "in": "query", "schema": value, "description": "What is explained of each row."},
        {"name": "output", "in": "query", "schema": output, "description": description},
    ]


def _got(path: str, summary: str, content: dict[str, Any], keys: bool) -> dict[str, Any]:
    responses = {"200": {"description": "The answer.", "content": content}}
    if keys:
        responses["401"] = _problem("No API key, or an unknown one.")
    name = path.strip("/").replace("/", "_").replace("%", "_") or "page"
    found = {"operationId": name, "summary": summary, "responses": responses}
    return found if keys else {**found, "security": []}


def _problem(text: str) -> dict[str, Any]:
    return {"description": text, "content": {JSON: {"schema": _PROBLEM}}}
