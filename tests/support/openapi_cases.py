"""Requests made from an OpenAPI document, the same in every run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

_SEED = 20_261_122
_LONGEST_S = 10.0
# Answers, and no failures: that none of the models asked about is well.
_NOT_FAILURES = frozenset({("GET /health", 503)})
# Right requests, and requests that the document calls wrong.
_RIGHT, _WRONG = (GenerationMode.POSITIVE, 2), (GenerationMode.NEGATIVE, 2)
_CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def cases(document: dict[str, Any], base_url: str) -> list[Case]:
    """A few requests to each operation of a document. Keys are the sender's to add."""
    config = SchemathesisConfig()
    config.projects.default.generation.update(with_security_parameters=False)
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.config.update(base_url=base_url)
    return [case for result in schema.get_all_operations() for case in _examples(result.ok())]


def problem_of(case: Case, key: str, session: requests.Session) -> tuple[int, str]:
    """The status of the answer, and what in it is not as the document says; any 5xx is not."""
    response = case.call(
        headers={"authorization": f"Bearer {key}"}, session=session, timeout=_LONGEST_S
    )
    status, failures = response.status_code, []
    if status >= 500 and (case.operation.label, status) not in _NOT_FAILURES:
        failures.append("Server error")
    try:
        case.validate_response(response, checks=_CHECKS)
    except FailureGroup as found:
        failures += [str(each).split("\n")[0] for each in found.exceptions]
    if not failures:
        return status, ""
    sent = f"{case.method} {case.formatted_path} {case.query} {case.body!r}"
    return status, f"{sent[:600]}: {status}: {'; '.join(failures)}: {response.text[:200]}"


def _examples(operation: Any) -> Iterator[Case]:
    found: list[Case] = []
    # Any text may stand in a path, so without a query or a body nothing can be wrong.
    open_to_wrong = len(operation.query) > 0 or len(operation.body) > 0
    for mode, count in (_RIGHT, _WRONG) if open_to_wrong else (_RIGHT,):

        @seed(_SEED)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def collect(case: Case) -> None:
            found.append(case)

        collect()
    yield from found
