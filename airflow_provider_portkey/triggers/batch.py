"""The trigger: polls a batch in the triggerer, without a worker slot."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_provider_portkey.batch import Batch, BatchId, as_id
from airflow_provider_portkey.events import DeadlineReached, WaitResult, to_event
from airflow_provider_portkey.exceptions import PortkeyError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.settings import task_headers
from airflow_provider_portkey.verdict import FailOnRequestErrors, Outcome, Policy, judge
from airflow_provider_portkey.wait import HOUR, Log, Progress, Schedule, as_seconds

#: How many seconds a trigger waits before its first poll, unless its interval is short: until then Airflow 3 may not
#: know that the task has left its worker, and a provider may not know its new batch.
FIRST_POLL_DELAY = 5.0


@dataclass(eq=False, repr=False)  # the base class has its own
class PortkeyBatchTrigger(BaseTrigger):
    """
    Polls a batch until it has ended, the deadline has passed, or Portkey refuses the call.

    It fires one event, described in :mod:`airflow_provider_portkey.events`. The worker decides what that means for the
    task, unless ``end_from_trigger`` is set: then a good end ends the task here, with the XComs that the worker would
    push. Neither the arguments nor the event hold a secret. Transient failures do not end the wait.

    :param batch_id: the batch's id, plain or percent-encoded, or the batch's dict as an operator returns it
    :param portkey_conn_id: the id of the Airflow connection
    :param headers: headers to send in addition to the connection's, or instead of those of the same names: bucket,
        region, model, ... They may not hold credentials, which belong on the connection
    :param poke_interval: seconds or timedelta between two polls; up to a tenth less, so that waits spread
    :param started_at: when the wait began, in Unix seconds; default: now
    :param deadline: when it ends, in Unix seconds, also on another triggerer; default: never
    :param exponential_backoff: let the interval grow with the time waited so far
    :param max_wait: the longest interval, in seconds or as timedelta; default: no limit
    :param end_from_trigger: when deferred, let a good end finish the task in the triggerer, without a worker slot. A
        task with more to do (outlets, a success callback, ...) ends on a worker all the same
    :param allowed_statuses: terminal statuses that count as success, of ``completed``, ``failed``, ``expired`` and
        ``cancelled``
    :param fail_on_request_errors: when a batch with an allowed status fails the task because requests in it failed:
        ``"never"``, when ``"all"`` of them did, or when ``"any"`` did
    :param do_xcom_push: whether a task that ends here pushes XComs
    :param cancel_from_trigger: cancel the batch also when a person clears or marks the task while it is deferred; up
        to Airflow 3.3.2 this may also cancel a paid batch when a triggerer hands its waits to another one. Before
        Airflow 3.3 it has no effect. A cleared task may have re-attached to the batch before that, and must then be
        cleared once more
    :param answered: whether the worker's poll was answered with the batch. Then a response that neither Portkey nor a
        provider wrote does not end the wait, and a rejected key only after two minutes; otherwise only from this
        trigger's first answered poll on
    :param silent_fail: let a missing connection never end the wait; default: after ten minutes
    """

    batch_id: BatchId
    portkey_conn_id: str = PortkeyHook.default_conn_name
    headers: Mapping[str, str] | None = None
    poke_interval: timedelta | float = 60
    started_at: float | None = None
    deadline: float | None = None
    exponential_backoff: bool = False
    max_wait: timedelta | float | None = None
    end_from_trigger: bool = False
    allowed_statuses: Iterable[str] = ("completed",)
    fail_on_request_errors: FailOnRequestErrors = "all"
    do_xcom_push: bool = True
    cancel_from_trigger: bool = False
    answered: bool = False
    silent_fail: bool = False

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch_id = as_id(self.batch_id)
        self.headers = task_headers(self.headers) or None
        self.started_at = time.time() if self.started_at is None else self.started_at
        self.poke_interval = as_seconds("poke_interval", self.poke_interval)
        self.max_wait = None if self.max_wait is None else as_seconds("max_wait", self.max_wait, above_zero=True)
        self.allowed_statuses = [str(status) for status in self.allowed_statuses]

    @classmethod
    def parameters(cls) -> list[str]:
        """Return the names of the constructor's parameters; each is also an attribute."""
        return [field.name for field in fields(cls)]

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow stores to create the same trigger in any triggerer."""
        arguments = {name: getattr(self, name) for name in self.parameters()}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the wait ends, and fire one event."""
        result: WaitResult
        try:
            result = await self._wait()
        except PortkeyError as error:
            result = error
        if isinstance(result, Batch) and self.end_from_trigger and await self._finish_here(result):
            yield TaskSuccessEvent()
        else:
            yield TriggerEvent(to_event(as_id(self.batch_id), result))  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Cancel the batch, if the task asked for it; else log how to."""
        if not self.cancel_from_trigger:
            self.log.info(
                "The wait was ended, but batch %s was not cancelled: it may go on, and be paid for. To cancel it, run "
                "a PortkeyCancelBatchOperator with this batch_id.",
                self.batch_id,
            )
            return
        try:
            await PortkeyHook(self.portkey_conn_id, self.headers).acancel_batch(self.batch_id)
        except PortkeyError as error:  # Airflow would log only that there was one
            self.log.warning("Could not cancel batch %s after its task was killed: %s", self.batch_id, error)
        else:
            self.log.info("Requested cancellation of batch %s: its task was killed.", self.batch_id)

    async def _finish_here(self, batch: Batch) -> bool:
        """Do what the worker would do after a good end; return whether the task is done, or needs the worker."""
        verdict = judge(batch, Policy.of(self.allowed_statuses, self.fail_on_request_errors))
        ti = self.task_instance
        # In dag.test() there is no task instance, and no triggerer either.
        if verdict.outcome is not Outcome.SUCCEED or ti is None:
            return False
        if self.do_xcom_push:
            from airflow.providers.common.compat.sdk import XCom
            from asgiref.sync import sync_to_async

            def push() -> None:
                # Not with the event: Airflow 3 encodes the XComs of an event twice, so that they are read as text.
                for key, value in batch.to_xcoms().items():
                    XCom.set(
                        key=key,
                        value=value,
                        dag_id=ti.dag_id,
                        task_id=ti.task_id,
                        run_id=ti.run_id,
                        map_index=ti.map_index,
                    )

            try:
                # Shielded: after an aborted request to its supervisor, Airflow 3.1 gives the next one the wrong
                # response.
                await asyncio.shield(sync_to_async(push, thread_sensitive=False)())
            except Exception:
                self.log.exception("Could not push the XComs of batch %s here: a worker will.", batch.id)
                return False
        (self.log.warning if verdict.warn else self.log.info)("%s", verdict.reason)
        return True

    async def _wait(self) -> WaitResult:
        """Return the batch that has ended, or what was known of it at the deadline."""
        assert self.started_at is not None
        assert not isinstance(self.poke_interval, timedelta)
        assert not isinstance(self.max_wait, timedelta)
        schedule = Schedule(
            started_at=self.started_at,
            deadline=float("inf") if self.deadline is None else self.deadline,
            poke_interval=self.poke_interval,
            exponential_backoff=self.exponential_backoff,
            max_wait=self.max_wait,
        )
        progress = Progress(polled=True, answered=self.answered, silent_fail=self.silent_fail)
        # The worker has just polled. A random part of the interval keeps the triggers that a restarted triggerer
        # starts all at once from polling in step ever after.
        delay = schedule.delay(random.random())
        if delay is not None:
            least = FIRST_POLL_DELAY if delay > 2 * FIRST_POLL_DELAY else 0.0
            await _sleep(least + (delay - least) * random.random(), schedule, progress, self.log)
        async with PortkeyHook(self.portkey_conn_id, self.headers) as hook:
            while True:
                try:
                    batch = await hook.aget_batch(self.batch_id, retry_within=schedule.left)
                except PortkeyError as error:
                    if not progress.record_failure(error, self.log):
                        raise
                else:
                    progress.record_status(batch, self.log)
                    if progress.is_over(batch, self.log):
                        return batch
                delay = schedule.delay(random.random(), progress.retry_after)
                if delay is None:
                    return progress.pending or DeadlineReached(progress.last_status, progress.silent_for)
                await _sleep(progress.until_grace_ends(delay), schedule, progress, self.log)


async def _sleep(delay: float, schedule: Schedule, progress: Progress, log: Log) -> None:
    """Sleep until the next poll, but log at least once an hour that the wait is alive."""
    while True:
        progress.report(delay, schedule.left, log)
        await asyncio.sleep(min(delay, HOUR))
        delay -= HOUR
        if delay <= 0:
            return
