from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_portkey.batch import Batch, BatchStatus
from airflow_provider_portkey.verdict import FailOnRequestErrors, Outcome, Policy, judge

TERMINAL = ["completed", "failed", "expired", "cancelled"]
CHOICES: list[FailOnRequestErrors] = ["never", "all", "any"]


def batch(status: str, **fields: Any) -> Batch:
    return Batch.from_dict({"id": "batch_1", "status": status, **fields})


@pytest.mark.parametrize("status", BatchStatus)
@pytest.mark.parametrize(
    "allowed", [["completed"], ["completed", "expired"], ["failed", "cancelled"], TERMINAL], ids=str
)
def test_a_terminal_status_succeeds_only_if_it_is_allowed(status: str, allowed: list[str]) -> None:
    outcome = Outcome.WAIT if status not in TERMINAL else Outcome.SUCCEED if status in allowed else Outcome.FAIL
    for choice in CHOICES:
        verdict = judge(batch(status), Policy.of(allowed, choice))
        assert (verdict.outcome, verdict.warn, str(batch(status)) in verdict.reason) == (outcome, False, True)


GOOD, WARN, FAIL = (Outcome.SUCCEED, False), (Outcome.SUCCEED, True), (Outcome.FAIL_ON_REQUESTS, False)
# The status and the counts total, completed and failed; the outcomes with fail_on_request_errors never, all and any.
REQUESTS: dict[str, tuple[str, Any, Any, Any, list[tuple[Outcome, bool]]]] = {
    "none failed": ("completed", 3, 3, 0, [GOOD, GOOD, GOOD]),
    "some failed": ("completed", 3, 2, 1, [WARN, WARN, FAIL]),
    "all failed": ("completed", 3, 0, 3, [WARN, FAIL, FAIL]),
    "all failed, total is not given": ("completed", None, 0, 3, [WARN, FAIL, FAIL]),
    "all failed, completed is not given": ("completed", 3, None, 3, [WARN, FAIL, FAIL]),
    "all failed, failed is not given": ("completed", 3, 0, None, [WARN, FAIL, FAIL]),
    "some failed, failed is not given": ("completed", 3, 2, None, [WARN, WARN, FAIL]),
    "none failed, failed is not given": ("completed", 3, 3, None, [GOOD, GOOD, GOOD]),
    "some or all failed, nothing else is given": ("completed", None, None, 3, [WARN, WARN, FAIL]),
    "no counts": ("completed", None, None, None, [GOOD, GOOD, GOOD]),
    "no requests": ("completed", 0, 0, 0, [GOOD, GOOD, GOOD]),
    "expired, none failed": ("expired", 3, 1, 0, [GOOD, GOOD, GOOD]),
    "expired, failed is not given": ("expired", 3, 1, None, [GOOD, GOOD, GOOD]),
    "expired, some failed": ("expired", 3, 1, 1, [WARN, WARN, FAIL]),
}


@pytest.mark.parametrize(("status", "total", "completed", "failed", "outcomes"), REQUESTS.values(), ids=REQUESTS)
def test_failed_requests_count_as_fail_on_request_errors_says(
    status: str, total: Any, completed: Any, failed: Any, outcomes: list[tuple[Outcome, bool]]
) -> None:
    counts = {"total": total, "completed": completed, "failed": failed}
    ended = batch(status, request_counts=counts, error_file_id="file-errors")
    verdicts = {choice: judge(ended, Policy.of(TERMINAL, choice)) for choice in CHOICES}
    assert [(verdict.outcome, verdict.warn) for verdict in verdicts.values()] == outcomes
    for choice, verdict in verdicts.items():
        assert str(ended) in verdict.reason and "error_file_id=file-errors" in verdict.reason
        assert (f"fail_on_request_errors={choice!r}" in verdict.reason) is (verdict.outcome is Outcome.FAIL_ON_REQUESTS)


@pytest.mark.parametrize(
    ("status", "first_line"),
    [
        ("completed", "Batch completed, which the task does not allow: add 'completed' to allowed_statuses"),
        ("expired", "Batch expired: add 'expired' to allowed_statuses to use its partial results"),
        ("stopped", "Batch was cancelled: add 'cancelled' to allowed_statuses to use its partial results"),
        ("failed", f"Batch failed (code-0: message 0 {'x' * 26}…): check its input and the errors below"),
    ],
)
def test_the_reason_of_a_bad_end_has_files_errors_and_advice(status: str, first_line: str) -> None:
    errors = [{"code": f"code-{n}", "message": f"message {n} " + "x" * 999, "line": n} for n in range(5)]
    ended = batch(status, request_counts={"failed": 7}, errors=errors, output_file_id="out", error_file_id="err")
    reason = judge(ended, Policy.of(["failed" if status == "completed" else "completed"], "all")).reason
    for words in (str(ended), "output_file_id=out, error_file_id=err", "code-2: message 2 xxx", "(line 2)"):
        assert words in reason
    assert reason.splitlines()[0] == first_line
    assert "code-3" not in reason and "… and 2 more" in reason
    assert len(reason) < 1500


@pytest.mark.parametrize(
    ("allowed", "choice", "words"),
    [
        ([], "all", "one or more of completed, failed, expired, cancelled"),
        (["completed", "in_progress"], "all", "'in_progress'"),
        (["stopped"], "all", "'stopped'"),
        ("done", "all", "'done'"),
        (None, "all", "allowed_statuses must hold"),
        ([["completed"]], "all", "allowed_statuses must hold"),
        (["completed"], "some", "one of never, all, any; got 'some'"),
        (["completed"], None, "one of never, all, any; got None"),
    ],
    ids=repr,
)
def test_an_invalid_policy_raises_value_error(allowed: Any, choice: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Policy.of(allowed, choice)


def test_a_policy_accepts_a_string_and_any_iterable() -> None:
    assert Policy.of("expired", "any") == Policy((BatchStatus.EXPIRED,), "any")
    assert Policy.of(iter(["completed", "failed"]), "never").allowed_statuses == ("completed", "failed")
    assert Policy() == Policy.of(["completed"], "all")
