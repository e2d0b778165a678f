from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_portkey.batch import Batch, BatchStatus
from airflow_provider_portkey.verdict import FailOnRequestErrors, Outcome, Policy, judge

ENDS = ["completed", "failed", "expired", "cancelled"]
WAYS: list[FailOnRequestErrors] = ["never", "all", "any"]


def batch(status: str, **answer: Any) -> Batch:
    return Batch.from_dict({"id": "batch_1", "status": status, **answer})


@pytest.mark.parametrize("status", BatchStatus)
@pytest.mark.parametrize("allowed", [["completed"], ["completed", "expired"], ["failed", "cancelled"], ENDS], ids=str)
def test_an_end_is_good_if_it_is_allowed(status: str, allowed: list[str]) -> None:
    outcome = Outcome.WAIT if status not in ENDS else Outcome.SUCCEED if status in allowed else Outcome.FAIL
    for way in WAYS:
        verdict = judge(batch(status), Policy.of(allowed, way))
        assert (verdict.outcome, verdict.warn, str(batch(status)) in verdict.reason) == (outcome, False, True)


# total, completed and failed; what becomes of the task when fail_on_request_errors is never, all, any.
REQUESTS: dict[str, tuple[str, Any, Any, Any, str]] = {
    "none failed": ("completed", 3, 3, 0, "good good good"),
    "some failed": ("completed", 3, 2, 1, "warn warn FAIL"),
    "all failed": ("completed", 3, 0, 3, "warn FAIL FAIL"),
    "all failed, total is not given": ("completed", None, 0, 3, "warn FAIL FAIL"),
    "all failed, completed is not given": ("completed", 3, None, 3, "warn FAIL FAIL"),
    "all failed, failed is not given": ("completed", 3, 0, None, "warn FAIL FAIL"),
    "some failed, failed is not given": ("completed", 3, 2, None, "warn warn FAIL"),
    "none failed, failed is not given": ("completed", 3, 3, None, "good good good"),
    "some or all failed, nothing else is given": ("completed", None, None, 3, "warn warn FAIL"),
    "no counts": ("completed", None, None, None, "good good good"),
    "no requests": ("completed", 0, 0, 0, "good good good"),
    "Bedrock's partial end": ("partially_completed", None, None, None, "warn warn FAIL"),
    "Bedrock's partial end with counts": ("partially_completed", 3, 0, 3, "warn FAIL FAIL"),
    "expired, none failed": ("expired", 3, 1, 0, "good good good"),
    "expired, failed is not given": ("expired", 3, 1, None, "good good good"),
    "expired, some failed": ("expired", 3, 1, 1, "warn warn FAIL"),
}
GOOD, WARN, FAIL = (Outcome.SUCCEED, False), (Outcome.SUCCEED, True), (Outcome.FAIL_ON_REQUESTS, False)


@pytest.mark.parametrize(("status", "total", "completed", "failed", "ends"), REQUESTS.values(), ids=REQUESTS)
def test_requests_that_failed(status: str, total: Any, completed: Any, failed: Any, ends: str) -> None:
    counts = {"total": total, "completed": completed, "failed": failed}
    ended = batch(status, request_counts=counts, error_file_id="file-errors")
    verdicts = {way: judge(ended, Policy.of(ENDS, way)) for way in WAYS}
    assert [(v.outcome, v.warn) for v in verdicts.values()] == [
        {"good": GOOD, "warn": WARN, "FAIL": FAIL}[end] for end in ends.split()
    ]
    for way, verdict in verdicts.items():
        assert str(ended) in verdict.reason and "error_file_id=file-errors" in verdict.reason
        assert (f"fail_on_request_errors={way!r}" in verdict.reason) is (verdict.outcome is Outcome.FAIL_ON_REQUESTS)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("completed", "allowed_statuses leave 'completed' out"),
        ("expired", "add 'expired' to allowed_statuses"),
        ("stopped", "add 'cancelled' to allowed_statuses"),
        ("failed", ""),
    ],
)
def test_a_bad_end_is_told_with_all_that_helps(status: str, advice: str) -> None:
    errors = [{"code": f"code-{n}", "message": f"message {n} " + "x" * 999, "line": n} for n in range(5)]
    answer = batch(status, request_counts={"failed": 7}, errors=errors, output_file_id="out", error_file_id="err")
    reason = judge(answer, Policy.of(["failed" if status == "completed" else "completed"], "all")).reason
    for words in (str(answer), "output_file_id=out, error_file_id=err", "code-2: message 2 xxx", "(line 2)", advice):
        assert words in reason
    assert "code-3" not in reason and "… and 2 more" in reason
    assert ("allowed_statuses" in reason) is bool(advice)
    assert len(reason) < 1500


@pytest.mark.parametrize(
    ("allowed", "way", "words"),
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
def test_a_policy_that_cannot_be_meant_is_refused(allowed: Any, way: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Policy.of(allowed, way)


def test_a_policy_reads_what_can_be_meant() -> None:
    assert Policy.of("expired", "any") == Policy((BatchStatus.EXPIRED,), "any")
    assert Policy.of(iter(["completed", "failed"]), "never").allowed_statuses == ("completed", "failed")
    assert Policy() == Policy.of(["completed"], "all")
