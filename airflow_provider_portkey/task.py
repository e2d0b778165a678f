"""What the sensor and the operator share: how a task looks at a batch, waits, and ends."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_portkey.batch import Batch, BatchStatus, is_same_id
from airflow_provider_portkey.exceptions import (
    PortkeyBatchCancelledError,
    PortkeyBatchEndedError,
    PortkeyBatchExpiredError,
    PortkeyBatchFailedError,
    PortkeyBatchTimeoutError,
    PortkeyConnectionNotFoundError,
    PortkeyEventError,
    PortkeyInputError,
    PortkeyRefusedError,
    PortkeyRequestsFailedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.verdict import Outcome, Policy, judge
from airflow_provider_portkey.wait import Progress, Schedule

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    _Base = BaseOperator
else:
    _Base = object

# How long after the task's own deadline Airflow may end a deferral: longer than a triggerer takes to restart and to
# make one last call, since Airflow 2.11 would take its own deadline for a fault and retry.
_DEFER_MARGIN = timedelta(minutes=15)

BAD_ENDS = {
    BatchStatus.FAILED: PortkeyBatchFailedError,
    BatchStatus.EXPIRED: PortkeyBatchExpiredError,
    BatchStatus.CANCELLED: PortkeyBatchCancelledError,
}


class PortkeyTask(_Base):
    """Mixed into an operator that has a connection."""

    portkey_conn_id: str

    @cached_property
    def hook(self) -> PortkeyHook:
        """The hook for the task's connection."""
        return PortkeyHook(self.portkey_conn_id)


class BatchTask(PortkeyTask):
    """Mixed into an operator that has these attributes, ``timeout`` in seconds."""

    batch_id: str
    timeout: float
    poke_interval: float
    deferrable: bool
    end_from_trigger: bool
    _policy: Policy
    _after_timeout = "The batch goes on: clear the task to wait again, and raise timeout."

    @cached_property
    def _deadline(self) -> float:
        """When this process gives up, on the monotonic clock; a rescheduled sensor has a new one for each look."""
        return time.monotonic() + self.timeout

    @cached_property
    def _progress(self) -> Progress:
        return Progress()

    def _look(self, context: Context) -> dict[str, Any] | None:
        """
        Retrieve the batch; return what the task returns, or ``None`` if it has to go on waiting.

        A failure that may pass is logged and counts as "still waiting".
        """
        try:
            batch = self.hook.get_batch(self.batch_id, retry_within=self._deadline - time.monotonic())
        except PortkeyTransientError as error:
            self._progress.missed(error, self.log)
            return None
        return self._take(context, batch)

    def _take(self, context: Context, batch: Batch) -> dict[str, Any] | None:
        """Take note of an answer; return what :meth:`_end` does."""
        if not batch.status.is_terminal:  # the verdict tells the end
            self._progress.saw(batch, self.log)
        return self._end(context, batch)

    def _end(self, context: Context, batch: Batch) -> dict[str, Any] | None:
        """
        Do what the verdict on ``batch`` says.

        :return: what the task returns, or ``None`` while the batch is in flight
        :raises PortkeyBatchEndedError: if it ended badly; what it brought is in XCom by then
        """
        verdict = judge(batch, self._policy)
        if verdict.outcome is Outcome.WAIT:
            return None
        xcoms = batch.to_xcoms()
        answer: dict[str, Any] = xcoms["return_value"]
        failed = verdict.outcome is not Outcome.SUCCEED
        if self.do_xcom_push:
            for key, value in xcoms.items():
                if failed or key != "return_value":  # that one Airflow pushes, on success
                    context["ti"].xcom_push(key=key, value=value)
        if not failed:
            (self.log.warning if verdict.warn else self.log.info)("%s", verdict.reason)
            return answer
        kind: type[PortkeyBatchEndedError] = PortkeyRequestsFailedError
        if verdict.outcome is Outcome.FAIL:
            kind = BAD_ENDS.get(batch.status, PortkeyBatchEndedError)
        raise kind(verdict.reason, batch)

    def _wait(self, context: Context, batch: Batch | None = None, **to_trigger: Any) -> dict[str, Any]:
        """
        Wait here, or in the triggerer, until the batch has ended; return what the task returns.

        :param batch: the batch as it was seen just now; one that was just created may not be found at once
        :param to_trigger: further arguments of the trigger
        """
        started_at = time.time()
        schedule = Schedule(started_at=started_at, deadline=started_at + self.timeout, poke_interval=self.poke_interval)
        answer = self._look(context) if batch is None else self._take(context, batch)
        while answer is None:
            if self.deferrable:
                self._defer(context, started_at=started_at, poke_interval=self.poke_interval, **to_trigger)
            delay = schedule.delay(random.random(), self._progress.retry_after)
            if delay is None:
                self._time_is_up()
            time.sleep(delay)
            answer = self._look(context)
        return answer

    def _defer(self, context: Context, *, started_at: float, poke_interval: float, **to_trigger: Any) -> NoReturn:
        """Hand the wait to the triggerer until ``timeout`` seconds after ``started_at``."""
        from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger

        left = started_at + self.timeout - time.time()
        if left <= 0:
            self._time_is_up()
        self.log.info("Deferring for up to %.0f s, to look every %g s.", left, poke_interval)
        ending: dict[str, Any] = {}
        if self.end_from_trigger:
            if reason := self._needs_a_worker(context):
                self.log.info("The task will end on a worker, in spite of end_from_trigger, because of %s.", reason)
            else:
                ending = {
                    "end_from_trigger": True,
                    "allowed_statuses": [status.value for status in self._policy.allowed_statuses],
                    "fail_on_request_errors": self._policy.fail_on_request_errors,
                    "do_xcom_push": self.do_xcom_push,
                }
        self.defer(
            trigger=PortkeyBatchTrigger(
                batch_id=self.batch_id,
                portkey_conn_id=self.portkey_conn_id,
                poke_interval=poke_interval,
                started_at=started_at,
                deadline=started_at + self.timeout,
                **to_trigger,
                **ending,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=left) + _DEFER_MARGIN,
        )

    def _needs_a_worker(self, context: Context) -> str | None:
        """Return what of this task an end in the triggerer would leave undone, in words; ``None`` if nothing."""
        ours = ("airflow.", "airflow_provider_portkey.")
        added = {name for cls in type(self).__mro__ if not cls.__module__.startswith(ours) for name in vars(cls)}
        needs = {
            "outlets": self.outlets,
            "on_success_callback": self.on_success_callback,
            "post_execute": getattr(self, "_post_execute_hook", None) or "post_execute" in added,
            "an execute_complete of its own": "execute_complete" in added,
            "map_index_template": getattr(self, "map_index_template", None),
            "multiple_outputs": getattr(self, "multiple_outputs", False),
            "returns_dag_result": getattr(self, "returns_dag_result", False),
            "a task that is mapped over its result": (
                (context["ti"].map_index or 0) < 0 and next(iter(self.iter_mapped_dependants()), None)
            ),
        }
        return next((name for name, there in needs.items() if there), None)

    def _resume(self, context: Context, event: Any) -> dict[str, Any]:
        """
        Judge the one event of :class:`~airflow_provider_portkey.triggers.batch.PortkeyBatchTrigger`.

        :raises PortkeyEventError: if it is anything else, or about another batch
        """
        if not isinstance(event, dict) or event.get("batch_id") != self.batch_id:
            raise PortkeyEventError(
                f"Expected an event about batch {self.batch_id!r} from its trigger, got {event!r:.200}."
            )
        kind, message = event.get("event"), event.get("message")
        if kind == "ended":
            batch = None
            with suppress(ValueError):
                batch = Batch.from_dict(event.get("batch"))
            if batch and is_same_id(batch.id, self.batch_id) and (answer := self._end(context, batch)):
                return answer
        elif isinstance(message, str):
            if kind == "timeout":
                self._progress.last = message
                self._time_is_up()
            if kind == "input_error":
                raise PortkeyInputError(message)
            if kind == "not_found":
                raise PortkeyConnectionNotFoundError(message)
            if kind == "refused":
                raise PortkeyRefusedError(
                    message, status_code=event.get("status_code"), origin=event.get("origin", "gateway")
                )
        raise PortkeyEventError(f"The trigger's event about batch {self.batch_id!r} tells no end: {event!r:.200}.")

    def _time_is_up(self) -> NoReturn:
        raise PortkeyBatchTimeoutError(
            f"Batch {self.batch_id} had not ended when the task's timeout of {self.timeout:g} s was over. "
            f"Last seen: {self._progress.last}. {self._after_timeout}"
        )


def as_seconds(name: str, value: timedelta | float) -> float:
    """
    Return a duration in seconds.

    :raises ValueError: if it is not one
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ValueError(f"{name} must be a timedelta or a number of seconds, 0 or more; got {value!r}")
    return float(seconds)
