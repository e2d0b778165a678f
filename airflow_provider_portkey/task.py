"""What the sensor and the operators share: how a task polls a batch, waits for it, and ends."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import conf

from airflow_provider_portkey.batch import Batch, BatchStatus, as_id
from airflow_provider_portkey.calls import is_folder, output_file
from airflow_provider_portkey.events import DeadlineReached, from_event
from airflow_provider_portkey.exceptions import (
    PortkeyBatchCancelledError,
    PortkeyBatchEndedError,
    PortkeyBatchExpiredError,
    PortkeyBatchFailedError,
    PortkeyBatchTimeoutError,
    PortkeyError,
    PortkeyRequestsFailedError,
)
from airflow_provider_portkey.hooks.portkey import PortkeyHook, read_first_rows
from airflow_provider_portkey.manifest import commonest_text
from airflow_provider_portkey.settings import task_headers
from airflow_provider_portkey.text import counted, duration, message, sentence, shorten
from airflow_provider_portkey.verdict import Outcome, Policy, judge
from airflow_provider_portkey.wait import Progress, Schedule, as_seconds

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    _Base = BaseOperator
else:
    _Base = object

# How long after the task's own deadline Airflow may end a deferral: longer than a triggerer needs to restart and to
# make one last call. Airflow 2.11 would report its own timeout as a fault, and retry.
_DEFER_MARGIN = timedelta(minutes=15)

_BAD_ENDS = {
    BatchStatus.FAILED: PortkeyBatchFailedError,
    BatchStatus.EXPIRED: PortkeyBatchExpiredError,
    BatchStatus.CANCELLED: PortkeyBatchCancelledError,
}


def bad_end(batch: Batch, text: str) -> PortkeyBatchEndedError:
    """Return the error, of the class for its status, for a batch that did not end as its task needs it."""
    return _BAD_ENDS.get(batch.status, PortkeyBatchEndedError)(text, batch)


class PortkeyTask(_Base):
    """Mixed into an operator that has a connection."""

    def _init_connection(self, portkey_conn_id: str, headers: Mapping[str, str] | None) -> None:
        """
        Set what the hook needs as attributes.

        :raises PortkeyInputError: if a header has a credential, so that no DAG with one is stored
        """
        self.portkey_conn_id = portkey_conn_id
        self.headers = headers
        task_headers(headers, rendered=False)

    @property
    def batch_id(self) -> str:
        """The batch's id. Airflow sets it to what its template renders to, which may be the dict of a batch."""
        return self._batch_id

    @batch_id.setter
    def batch_id(self, given: Any) -> None:
        self._batch_id: str = as_id(given)

    @cached_property
    def hook(self) -> PortkeyHook:
        """The hook for the task's connection."""
        return PortkeyHook(self.portkey_conn_id, self.headers)


class BatchTask(PortkeyTask):
    """Mixed into an operator or sensor that waits for a batch."""

    timeout: float
    poke_interval: float

    def _init_wait(self, parameters: Mapping[str, Any]) -> None:
        """
        Check the parameters of a wait, and set them as attributes.

        A constructor repeats them only in its signature, as documentation, and hands over its ``locals()``.

        :param parameters: by name. A sensor leaves ``timeout`` and ``poke_interval`` to Airflow's base class
        """
        self.deferrable: bool = parameters["deferrable"]
        self.end_from_trigger: bool = parameters["end_from_trigger"]
        self._policy = Policy.of(parameters["allowed_statuses"], parameters["fail_on_request_errors"])
        self.allowed_statuses = self._policy.allowed_statuses
        self.fail_on_request_errors = self._policy.fail_on_request_errors
        if "timeout" in parameters:
            timeout = parameters["timeout"]
            self.timeout = as_seconds(
                "timeout", conf.getfloat("sensors", "default_timeout") if timeout is None else timeout
            )
            self.poke_interval = as_seconds("poke_interval", parameters["poke_interval"])
        if not parameters.get("wait_for_completion", True):
            self._warn_of_no_wait(parameters)

    def _warn_of_no_wait(self, parameters: Mapping[str, Any]) -> None:
        # A task that asks for a wait in all but one parameter would succeed at once, and the next one would fail.
        asked = {
            "deferrable": self.deferrable and not conf.getboolean("operators", "default_deferrable", fallback=False),
            "end_from_trigger": self.end_from_trigger,
            "poke_interval": parameters["poke_interval"] != 60,
            "timeout": parameters["timeout"] is not None,
            "cancel_from_trigger": parameters.get("cancel_from_trigger"),
        }
        if names := [name for name in asked if asked[name]]:
            warnings.warn(
                f"Task {self.task_id!r} does not wait: add wait_for_completion=True, or remove {', '.join(names)}",
                stacklevel=5,  # the DAG file: behind this method, its caller, the constructor and Airflow's wrapper
            )

    @cached_property
    def _deadline(self) -> float:
        """When this process gives up, on the monotonic clock; a rescheduled sensor has a new one for each poll."""
        return time.monotonic() + self.timeout

    @cached_property
    def _progress(self) -> Progress:
        return Progress()

    def _poll(self, context: Context) -> dict[str, Any] | None:
        """
        Retrieve the batch; return the task's result, or ``None`` if it has to wait.

        A failure that does not end the wait is logged.
        """
        try:
            batch = self.hook.get_batch(self.batch_id, retry_within=self._deadline - time.monotonic())
        except PortkeyError as error:
            if not self._progress.record_failure(error, self.log):
                raise
            return None
        return self._handle_batch(context, batch)

    def _handle_batch(self, context: Context, batch: Batch) -> dict[str, Any] | None:
        """Record a response; return what :meth:`_finish_if_terminal` does."""
        if not self._progress.is_over(batch, self.log):
            self._progress.record_status(batch, self.log)
            return None
        return self._finish_if_terminal(context, batch)  # the verdict reports the end

    def _finish_if_terminal(self, context: Context, batch: Batch) -> dict[str, Any] | None:
        """
        Act on the verdict on ``batch``.

        :return: the task's result, or ``None`` while the batch is in flight
        :raises PortkeyBatchEndedError: if it ended badly; before that, its files and counts are pushed to XCom
        """
        verdict = judge(batch, self._policy, self._cancelled_by(context))
        if verdict.outcome is Outcome.WAIT:
            return None
        xcoms = batch.to_xcoms()
        result: dict[str, Any] = xcoms["return_value"]
        failed = verdict.outcome is not Outcome.SUCCEED
        if self.do_xcom_push:
            for key, value in xcoms.items():
                if failed or key != "return_value":  # Airflow pushes that one on success
                    context["ti"].xcom_push(key=key, value=value)
        reason = verdict.reason
        if verdict.warn or verdict.outcome is Outcome.FAIL_ON_REQUESTS or batch.request_counts.failed:
            reason = "\n".join(filter(None, [reason, self._log_request_errors(batch)]))
        if not failed:
            (self.log.warning if verdict.warn else self.log.info)("%s", reason)
            return result
        if verdict.outcome is Outcome.FAIL:
            raise self._error_for(batch, reason)
        raise PortkeyRequestsFailedError(reason, batch)

    def _log_request_errors(self, batch: Batch) -> str:
        """Log why requests failed, as far as the first rows show it; return where that is, empty if nowhere."""
        file_id = batch.error_file_id
        file_id = output_file(batch) if file_id is None or is_folder(file_id) else file_id
        if file_id is None:
            return ""
        try:
            stats = read_first_rows(self.hook, file_id)
        except Exception as error:  # noqa: BLE001 - the task ends as the batch did, whatever its files are
            self.log.info("Cannot read why requests failed. %s", error)
            return ""
        if not stats.errors or not stats.has_readable_rows:
            return ""
        seen = f"the first {counted(stats.lines, 'row')} of {shorten(file_id)}"
        self.log.warning("The commonest errors in %s:\n%s", seen, commonest_text(stats.errors))
        return f"The log above has the commonest errors in {seen}."

    def _cancelled_by(self, context: Context) -> list[str]:
        """Return the parameters with which the task itself may have cancelled its batch."""
        return []

    def _error_for(self, batch: Batch, text: str) -> PortkeyError:
        """Return the error for a bad end."""
        return bad_end(batch, text)

    def _wait(self, context: Context, batch: Batch | None = None) -> dict[str, Any]:
        """
        Wait here, or in the triggerer, until the batch has ended; return the task's result.

        :param batch: the batch as it was just retrieved; one that was just created may not be found at once
        """
        started_at = time.time()
        schedule = Schedule(started_at=started_at, deadline=started_at + self.timeout, poke_interval=self.poke_interval)
        result = self._poll(context) if batch is None else self._handle_batch(context, batch)
        while result is None:
            if self.deferrable:
                return self._defer(context, started_at)
            delay = schedule.delay(random.random(), self._progress.retry_after)
            if delay is None:
                return self._end_at_deadline(context)
            delay = self._progress.until_grace_ends(delay)
            self._progress.report(delay, schedule.left, self.log)
            self._sleep(delay)
            result = self._poll(context)
        return result

    def _sleep(self, seconds: float) -> None:
        """Let time pass between two polls."""
        time.sleep(seconds)

    def _defer(self, context: Context, started_at: float) -> dict[str, Any]:
        """
        Pass the wait to the triggerer until ``timeout`` seconds after ``started_at``; end it if these have passed.

        Each parameter of the trigger that the task has as an attribute of the same name is passed on, also one that a
        subclass adds.
        """
        from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger

        left = started_at + self.timeout - time.time()
        if left <= 0:
            return self._end_at_deadline(context)
        text = "Deferring: polling every %s for at most %s. A triggerer must run."
        self.log.info(text, duration(self.poke_interval), duration(left))
        reason = self._needs_worker(context) if self.end_from_trigger else None
        if reason:
            self.log.info("The task will end on a worker, despite end_from_trigger, because of %s.", reason)
        arguments = {name: getattr(self, name) for name in PortkeyBatchTrigger.parameters() if hasattr(self, name)}
        arguments |= {
            "started_at": started_at,
            "deadline": started_at + self.timeout,
            "end_from_trigger": self.end_from_trigger and not reason,
            "answered": self._progress.answered,
        }
        self.defer(
            trigger=PortkeyBatchTrigger(**arguments),
            method_name="execute_complete",
            timeout=timedelta(seconds=left) + _DEFER_MARGIN,
        )

    def _needs_worker(self, context: Context) -> str | None:
        """Return the first thing that an end in the triggerer would leave undone; ``None`` if there is nothing."""
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
        return next((name for name, needed in needs.items() if needed), None)

    def _handle_event(self, context: Context, event: Any) -> dict[str, Any]:
        """
        Act on the one event of :class:`~airflow_provider_portkey.triggers.batch.PortkeyBatchTrigger`.

        :raises PortkeyError: what ended the wait in the triggerer, as the class that was raised there
        """
        ended = from_event(event, self.batch_id)
        if isinstance(ended, PortkeyError):
            raise ended
        if isinstance(ended, DeadlineReached):
            self._progress.last_status = ended.last_status
            self._raise_timeout(ended.silent_for)
        result = self._finish_if_terminal(context, ended)
        assert result is not None  # from_event accepts no batch in flight
        return result

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral. If Airflow's own timeout ended it, poll once more, as at each deadline."""
        # Airflow 2 reports "Trigger/execution timeout", Airflow 3 "Trigger timeout".
        if next_method != "__fail__" or not str((next_kwargs or {}).get("error")).endswith("timeout"):
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning("Airflow ended the deferral, since no trigger did: check that a triggerer runs.")
        self._progress = Progress(polled=True, answered=True)
        result = self._poll(context) if self.batch_id else None
        return self._end_at_deadline(context) if result is None else result

    def _end_at_deadline(self, context: Context) -> dict[str, Any]:
        """End a wait whose time has passed: with what it had not believed yet, or with a timeout."""
        pending = self._progress.pending
        if isinstance(pending, PortkeyError):
            raise pending
        result = self._finish_if_terminal(context, pending) if pending else None
        if result is None:
            self._raise_timeout(self._progress.silent_for)
        return result

    def _remedy_timeout(self) -> str:
        """Do what the task does about a batch that is not in time; return what is left to do, for the error."""
        return "raise timeout, or clear the task to wait again"

    def _raise_timeout(self, silent_for: float | None) -> NoReturn:
        """
        Raise the error of a timeout.

        :param silent_for: seconds without any response, if there was none at all
        """
        remedy = self._remedy_timeout()
        first_line = f"Batch still in flight after {duration(self.timeout)}: {remedy}"
        if silent_for is not None:
            address = f"connection {self.portkey_conn_id!r}"
            with suppress(PortkeyError):  # which ended the wait as well
                address = self.hook.base_url
            silence = duration(min(round(silent_for, 1), self.timeout))
            first_line = f"Portkey never answered in {silence} ({shorten(address, 40)}): check host and DNS"
        raise PortkeyBatchTimeoutError(
            message(
                first_line,
                f"Batch {self.batch_id} had not ended within the task's timeout of {duration(self.timeout)}.",
                sentence(f"Last known status: {self._progress.last_status}"),
            )
        )
