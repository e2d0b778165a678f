"""The trigger: what thousands of waits run on."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_provider_portkey.batch import Batch
from airflow_provider_portkey.exceptions import (
    PortkeyConnectionNotFoundError,
    PortkeyError,
    PortkeyInputError,
    PortkeyRefusedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.verdict import FailOnRequestErrors, Outcome, Policy, judge
from airflow_provider_portkey.wait import Progress, Schedule

#: How many seconds a wait goes on while Airflow does not find its connection.
MISSING_CONNECTION_GRACE = 600.0
#: How many seconds a trigger that polls less often waits before its first look: until then Airflow 3 may not know yet
#: that the task has left its worker, and a provider not that its batch is there.
FIRST_LOOK = 5.0


class PortkeyBatchTrigger(BaseTrigger):
    """
    Looks at a batch until it has ended, the deadline is over, or Portkey refuses.

    It fires one event: a dict with ``batch_id``, ``event`` (``"ended"``, ``"timeout"``, ``"refused"``,
    ``"input_error"`` or ``"not_found"``) and, with ``"ended"``, the ``batch`` as :meth:`Batch.to_dict()
    <airflow_provider_portkey.batch.Batch.to_dict>` gives it, else a ``message``. What that means for the task is
    for the worker to judge, unless ``end_from_trigger`` is set: then a good end ends the task here, with the XComs
    that the worker would push. Neither the arguments nor the event hold a secret.

    Failures that may pass do not end it.

    :param batch_id: the batch
    :param portkey_conn_id: the id of the Airflow connection
    :param poke_interval: seconds between two looks, up to a tenth less to spread them
    :param started_at: when the wait began, in Unix seconds; default: now
    :param deadline: when it ends, in Unix seconds, also if the trigger is moved to another triggerer; default:
        never
    :param exponential_backoff: let the interval grow with the time waited so far
    :param max_wait: the longest interval in seconds
    :param end_from_trigger: end the task here when the batch ended well
    :param allowed_statuses: what that means, see :class:`~airflow_provider_portkey.verdict.Policy`
    :param fail_on_request_errors: the same
    :param do_xcom_push: whether a task that ends here has XComs
    :param cancel_on_kill: cancel the batch when a person clears the task, or marks it. Airflow tells triggers of that
        from 3.3 on, and 3.3.0 to 3.3.2 also when they move to another triggerer
    """

    def __init__(
        self,
        batch_id: str,
        portkey_conn_id: str = PortkeyHook.default_conn_name,
        poke_interval: float = 60.0,
        started_at: float | None = None,
        deadline: float | None = None,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        end_from_trigger: bool = False,
        allowed_statuses: Sequence[str] = ("completed",),
        fail_on_request_errors: FailOnRequestErrors = "all",
        do_xcom_push: bool = True,
        cancel_on_kill: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch_id = batch_id
        self.portkey_conn_id = portkey_conn_id
        self.poke_interval = poke_interval
        self.started_at = time.time() if started_at is None else started_at
        self.deadline = deadline
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait
        self.end_from_trigger = end_from_trigger
        self.allowed_statuses = list(allowed_statuses)
        self.fail_on_request_errors = fail_on_request_errors
        self.do_xcom_push = do_xcom_push
        self.cancel_on_kill = cancel_on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow stores to make the same trigger anywhere."""
        names = (
            "batch_id portkey_conn_id poke_interval started_at deadline exponential_backoff max_wait "
            "end_from_trigger allowed_statuses fail_on_request_errors do_xcom_push cancel_on_kill"
        ).split()
        return f"{type(self).__module__}.{type(self).__qualname__}", {n: getattr(self, n) for n in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until there is something to tell, and tell it once."""
        end: dict[str, Any]
        try:
            seen = await self._wait()
        except PortkeyRefusedError as error:
            end = {
                "event": "refused",
                "message": str(error),
                "status_code": error.status_code,
                "origin": error.origin,
            }
        except PortkeyInputError as error:
            end = {"event": "input_error", "message": str(error)}
        except PortkeyConnectionNotFoundError as error:
            end = {"event": "not_found", "message": str(error)}
        else:
            if isinstance(seen, str):
                end = {"event": "timeout", "message": seen}
            elif self.end_from_trigger and await self._is_finished_with(seen):
                yield TaskSuccessEvent()
                return
            else:
                end = {"event": "ended", "batch": seen.to_dict()}
        yield TriggerEvent({"batch_id": self.batch_id, **end})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Cancel the batch, if asked to."""
        if not self.cancel_on_kill:
            return
        try:
            await PortkeyHook(self.portkey_conn_id).acancel_batch(self.batch_id)
        except PortkeyError as error:  # of which Airflow would not say more than that there was one
            self.log.warning("Batch %s could not be cancelled, though its task was killed: %s", self.batch_id, error)
        else:
            self.log.info("Batch %s: asked for it to be cancelled, since its task was killed.", self.batch_id)

    async def _is_finished_with(self, batch: Batch) -> bool:
        """Do what the worker would after a good end; whether that was all, or the worker has to."""
        verdict = judge(batch, Policy.of(self.allowed_statuses, self.fail_on_request_errors))
        ti = self.task_instance
        # There is no task instance in dag.test(), which has no triggerer either.
        if verdict.outcome is not Outcome.SUCCEED or ti is None:
            return False
        if self.do_xcom_push:
            from airflow.providers.common.compat.sdk import XCom
            from asgiref.sync import sync_to_async

            def push() -> None:
                # Not with the event: Airflow 3 encodes those of an event twice, so that they are read as text.
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
                # Shielded, since to break off a talk with Airflow 3.1's supervisor would break more than this.
                await asyncio.shield(sync_to_async(push, thread_sensitive=False)())
            except Exception:
                self.log.exception("Batch %s: its XComs could not be pushed here; a worker will.", batch.id)
                return False
        (self.log.warning if verdict.warn else self.log.info)("%s", verdict.reason)
        return True

    async def _wait(self) -> Batch | str:
        """Return the batch that has ended, or what was last seen of it when the time is up."""
        schedule = Schedule(
            started_at=self.started_at,
            deadline=float("inf") if self.deadline is None else self.deadline,
            poke_interval=self.poke_interval,
            exponential_backoff=self.exponential_backoff,
            max_wait=self.max_wait,
        )
        progress = Progress()
        missing_since: float | None = None
        # The worker has just looked. A random part of the interval keeps the triggers that a restarted
        # triggerer takes up all at once from polling in step ever after.
        delay = schedule.delay(random.random())
        if delay is not None:
            least = FIRST_LOOK if delay > 2 * FIRST_LOOK else 0.0
            await asyncio.sleep(least + (delay - least) * random.random())
        async with PortkeyHook(self.portkey_conn_id) as hook:
            while True:
                try:
                    batch = await hook.aget_batch(self.batch_id, retry_within=schedule.left)
                except PortkeyTransientError as error:
                    missing_since = None
                    progress.missed(error, self.log)
                except PortkeyConnectionNotFoundError as error:
                    # The worker has just read it: a secrets backend that is down for a moment looks the same.
                    missing_since = missing_since or time.monotonic()
                    if time.monotonic() - missing_since > MISSING_CONNECTION_GRACE:
                        raise
                    progress.missed(PortkeyTransientError(str(error), origin="network"), self.log)
                else:
                    missing_since = None
                    progress.saw(batch, self.log)
                    if batch.status.is_terminal:
                        return batch
                delay = schedule.delay(random.random(), progress.retry_after)
                if delay is None:
                    return progress.last
                await asyncio.sleep(delay)
