"""
What a batch's state means for the task that looks at it: the one place that decides.

Poking, rescheduled and resumed sensors, the trigger and the operator all ask :func:`judge`. Plain data: no
network, no Airflow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, get_args

from airflow_provider_portkey.batch import (
    PARTIALLY_COMPLETED,
    TERMINAL_STATUSES,
    Batch,
    BatchStatus,
)

FailOnRequestErrors = Literal["never", "all", "any"]


class Outcome(Enum):
    """What a task does about a batch."""

    WAIT = auto()
    SUCCEED = auto()
    #: The batch as a whole ended badly.
    FAIL = auto()
    #: The batch ended well, but too many of the requests in it failed.
    FAIL_ON_REQUESTS = auto()


@dataclass(frozen=True)
class Verdict:
    """
    An outcome and, in words for the reader of a log, the reason for it.

    :param outcome: what the task does
    :param reason: why, in a sentence or more
    :param warn: whether the outcome is good but the reason deserves attention
    """

    outcome: Outcome
    reason: str
    warn: bool = False


@dataclass(frozen=True)
class Policy:
    """
    Which ends of a batch are good.

    :param allowed_statuses: terminal statuses that let the task succeed
    :param fail_on_request_errors: when requests that failed inside a batch with an allowed status fail the
        task: ``"never"``, when ``"all"`` of them failed, or when ``"any"`` did
    :raises ValueError: if one of the two has a value that can't be meant
    """

    allowed_statuses: tuple[BatchStatus, ...] = (BatchStatus.COMPLETED,)
    fail_on_request_errors: FailOnRequestErrors = "all"

    @classmethod
    def of(cls, allowed_statuses: Iterable[str], fail_on_request_errors: FailOnRequestErrors) -> Policy:
        """Check what a DAG author wrote. For the parameters see the class."""
        words = list(allowed_statuses) if isinstance(allowed_statuses, Iterable) else [allowed_statuses]
        words = [allowed_statuses] if isinstance(allowed_statuses, str) else words
        if not words or not all(word in TERMINAL_STATUSES for word in words):
            raise ValueError(f"allowed_statuses must hold one or more of {', '.join(TERMINAL_STATUSES)}; got {words!r}")
        if fail_on_request_errors not in get_args(FailOnRequestErrors):
            raise ValueError(
                f"fail_on_request_errors must be one of {', '.join(get_args(FailOnRequestErrors))}; "
                f"got {fail_on_request_errors!r}"
            )
        return cls(tuple(BatchStatus(word) for word in words), fail_on_request_errors)


def judge(batch: Batch, policy: Policy) -> Verdict:
    """Say what ``batch`` means under ``policy``."""
    if not batch.status.is_terminal:
        return Verdict(Outcome.WAIT, f"{batch}.")

    files = f"output_file_id={batch.output_file_id}, error_file_id={batch.error_file_id}"
    if batch.status not in policy.allowed_statuses:
        errors = "".join(f"\n  {error}" for error in batch.errors[:3])
        more = len(batch.errors) - 3
        return Verdict(
            Outcome.FAIL,
            f"{batch}; {files}."
            + (f" The provider's errors:{errors}" if errors else "")
            + (f"\n  … and {more} more" if more > 0 else "")
            + ("" if batch.status is BatchStatus.FAILED else f"\n{_ADVICE[batch.status]}"),
        )

    counts = batch.request_counts
    failed = counts.failed or 0
    if counts.failed is None and batch.status is BatchStatus.COMPLETED and counts.completed is not None:
        failed = (counts.total or 0) - counts.completed  # Vertex leaves members out
    some_failed = failed > 0 or batch.provider_status == PARTIALLY_COMPLETED
    all_failed = failed > 0 and (counts.completed == 0 if counts.total is None else failed >= counts.total)
    if not some_failed:
        return Verdict(Outcome.SUCCEED, f"{batch}; {files}.")
    reason = f"{batch}; {files}. {'All' if all_failed else 'Some'} requests in it failed"
    if policy.fail_on_request_errors == "any" or (policy.fail_on_request_errors == "all" and all_failed):
        return Verdict(
            Outcome.FAIL_ON_REQUESTS,
            f"{reason}, and the task has fail_on_request_errors={policy.fail_on_request_errors!r}.",
        )
    return Verdict(Outcome.SUCCEED, f"{reason}: the error file says why.", warn=True)


_ADVICE = {
    BatchStatus.COMPLETED: "The task's allowed_statuses leave 'completed' out.",
    BatchStatus.EXPIRED: (
        "It ran out of time; requests answered before that are in the output file. "
        "To go on with such partial results, add 'expired' to allowed_statuses."
    ),
    BatchStatus.CANCELLED: (
        "Somebody cancelled it; requests answered before that may be in the output file. "
        "To go on with such partial results, add 'cancelled' to allowed_statuses."
    ),
}
