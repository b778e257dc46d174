"""The checked-in matrix of routes, binaries and flags."""

from __future__ import annotations

from pathlib import Path

from shared.domain.capabilities import Binary, RouteClass, decide
from shared.gateway.route_classes import known_paths, refusal
from shared.gateway.route_specs import matrix, sample

CHECKED_IN = Path(__file__).with_name("route_matrix.txt")


def test_matrix_is_as_reviewed() -> None:
    """What classes and capabilities yield is exactly what was checked in.

    After a reviewed change: `python -c "from shared.gateway.route_specs import matrix;
    print(matrix(), end='')" > tests/contract/route_matrix.txt`.
    """
    assert matrix() == CHECKED_IN.read_text(encoding="utf-8")


def test_no_flag_opens_anything_on_a_worker() -> None:
    """In every row of a worker, management is 403 and the UI 404."""
    rows = [row for row in CHECKED_IN.read_text(encoding="utf-8").splitlines() if "[" in row]
    workers = [row for row in rows if row.startswith("worker ")]
    assert len(workers) == 32
    assert all(" management=403 ui=404 " in row for row in workers)


def test_admin_with_both_admin_flags_answers_as_a_worker() -> None:
    """The admin without management and UI refuses the same paths with the same statuses."""
    worker = decide(Binary.WORKER, {})
    admin = decide(Binary.ADMIN, {"DISABLE_ADMIN_ENDPOINTS": True, "DISABLE_ADMIN_UI": True})
    for path, _ in known_paths():
        assert refusal(sample(path), worker)[0] == refusal(sample(path), admin)[0], path


def test_contract_exemptions_hold_without_llm() -> None:
    """With the LLM switch, the model lists, health and metrics stay (contract §1.1)."""
    admin = decide(Binary.ADMIN, {"DISABLE_LLM_API_ENDPOINTS": True})
    stay = {"/models", "/v1/models", "/claude_code_gateway/v1/models", "/model_group/info"}
    stay |= {"/health", "/metrics", "/v1/models/{model_id*}", "/public/model_hub"}
    classes = dict(known_paths())
    assert all(admin.serves(classes[path]) for path in stay)
    assert not admin.serves(RouteClass.LLM)
