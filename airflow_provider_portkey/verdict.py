"""
What a batch's state means for its task: the one place that decides.

Poking, rescheduled and resumed sensors, the trigger and the operators all call :func:`judge`. Plain data: no network,
no Airflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, get_args

from airflow_provider_portkey.batch import TERMINAL_STATUSES, Batch, BatchStatus
from airflow_provider_portkey.text import message, shorten

FailOnRequestErrors = Literal["never", "all", "any"]

#: What OpenAI and Azure (code and text) and Bedrock say when their queue of batches is full.
QUOTA = re.compile(r"token_limit_exceeded|enqueued token limit|ServiceQuotaExceeded", re.IGNORECASE)

# How many of a batch's own errors a message quotes.
_MAX_ERRORS = 3


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
    An outcome and the reason for it.

    :param outcome: what the task does
    :param reason: why, for a log or an error: cause and remedy in the first line, then details
    :param warn: whether the outcome is good but somebody should read the reason
    """

    outcome: Outcome
    reason: str
    warn: bool = False


@dataclass(frozen=True)
class Policy:
    """
    Which ends of a batch are good.

    :param allowed_statuses: terminal statuses that let the task succeed
    :param fail_on_request_errors: when a batch with an allowed status fails the task because requests in it failed:
        ``"never"``, when ``"all"`` of them failed, or when ``"any"`` did
    """

    allowed_statuses: tuple[BatchStatus, ...] = (BatchStatus.COMPLETED,)
    fail_on_request_errors: FailOnRequestErrors = "all"

    @classmethod
    def of(cls, allowed_statuses: Iterable[str], fail_on_request_errors: FailOnRequestErrors) -> Policy:
        """
        Check what a DAG author wrote. For the parameters see the class.

        :raises ValueError: if one of the two is invalid
        """
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


def judge(batch: Batch, policy: Policy, cancelled_by: Sequence[str] = ()) -> Verdict:
    """
    Return what a batch means for its task.

    :param batch: the batch as it was retrieved
    :param policy: which ends are good
    :param cancelled_by: the parameters with which the task itself may have cancelled the batch
    """
    if not batch.status.is_terminal:
        return Verdict(Outcome.WAIT, f"{batch}.")

    summary = f"{batch}; output_file_id={batch.output_file_id}, error_file_id={batch.error_file_id}."
    if batch.status not in policy.allowed_statuses:
        return Verdict(Outcome.FAIL, message(*_bad_end(batch, cancelled_by), summary, batch_errors(batch)))

    counts = batch.request_counts
    failed = counts.failed or 0
    if counts.failed is None and batch.status is BatchStatus.COMPLETED and counts.completed is not None:
        failed = (counts.total or 0) - counts.completed  # Vertex leaves members out
    all_failed = failed > 0 and (counts.completed == 0 if counts.total is None else failed >= counts.total)
    if failed <= 0:
        return Verdict(Outcome.SUCCEED, summary)
    cause = "All requests of the batch failed" if all_failed else "Some requests of the batch failed"
    where = "the error file has the reasons" if batch.error_file_id else "the provider named no error file"
    first_line = f"{cause}: {where}"
    if policy.fail_on_request_errors == "any" or (policy.fail_on_request_errors == "all" and all_failed):
        rule = f"The task fails since it has fail_on_request_errors={policy.fail_on_request_errors!r}."
        return Verdict(Outcome.FAIL_ON_REQUESTS, message(first_line, summary, rule))
    return Verdict(Outcome.SUCCEED, message(first_line, summary), warn=True)


def is_over_quota(batch: Batch) -> bool:
    """Whether a batch failed before it began since the provider's queue was full: later it would not."""
    return batch.status is BatchStatus.FAILED and any(
        QUOTA.search(f"{error.code} {error.message}") for error in batch.errors
    )


def batch_errors(batch: Batch) -> str:
    """Return a batch's own errors, a line each, for the end of a message; empty if it has none."""
    if not batch.errors:
        return ""
    more = len(batch.errors) - _MAX_ERRORS
    lines = ["The provider's errors:", *(f"  {error}" for error in batch.errors[:_MAX_ERRORS])]
    return "\n".join(lines + [f"  … and {more} more"] * (more > 0))


def _bad_end(batch: Batch, cancelled_by: Sequence[str]) -> list[str]:
    """Return cause and remedy for a batch that did not end as its task needs it, and further lines."""
    if batch.status is BatchStatus.FAILED:
        reason = shorten(str(batch.errors[0]), 45) if batch.errors else "the provider gave no reason"
        return [f"Batch failed ({reason}): check its input and the errors below"]
    if batch.status is BatchStatus.CANCELLED and cancelled_by:
        return [
            "Batch was cancelled, maybe by this task: clear the task to create another",
            f"An earlier attempt or the trigger of this task may have requested that ({', '.join(cancelled_by)}): see "
            "their logs. Otherwise somebody else did: add 'cancelled' to allowed_statuses to use its partial results.",
        ]
    cause = {
        BatchStatus.COMPLETED: "Batch completed, which the task does not allow",
        BatchStatus.EXPIRED: "Batch expired",
        BatchStatus.CANCELLED: "Batch was cancelled",
    }[batch.status]
    use = "" if batch.status is BatchStatus.COMPLETED else " to use its partial results"
    return [f"{cause}: add {batch.status.value!r} to allowed_statuses{use}"]
