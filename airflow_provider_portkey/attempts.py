"""
What attempts of one task know of each other, so that none of them pays for a batch that is there already.

On Airflow 3.3 a task has a store that outlives its attempts. It can't be written in one step with the creation of a
batch, and earlier Airflows have none: so each batch also carries a key in its metadata, by which it is found in the
provider's list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_portkey.batch import Batch, is_same_id
from airflow_provider_portkey.exceptions import PortkeyAttemptUnknownError, PortkeyRefusedError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_portkey.hooks.portkey import PortkeyHook
    from airflow_provider_portkey.wait import Log

OnUnknown = Literal["create", "fail"]

#: The pair in a batch's metadata by which a later attempt finds it.
METADATA_KEY = "airflow_attempt_key"
#: How many of the newest batches are looked through for it.
MAX_LISTED = 2_000

_STORE_KEY = "portkey_batch"


@dataclass(frozen=True)
class Found:
    """
    What a look through the provider's list brought.

    :param batch: a batch of this task that is of use, if there is one
    :param is_all: whether there is no other of this task
    """

    batch: Batch | None
    is_all: bool


class Attempts:
    """
    The attempts of a task instance at creating one batch.

    :param context: the task's
    :param asked: what the batch asks, as JSON types: with another, the batch is another
    :param hook: reaches the provider
    :param is_of_use: whether to go on with a batch
    :param log: the task's
    """

    def __init__(
        self, context: Context, asked: Any, *, hook: PortkeyHook, is_of_use: Callable[[Batch], bool], log: Log
    ) -> None:
        ti = context["ti"]
        who = (ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        #: Says, in a batch's metadata, what made it.
        self.key = hashlib.sha256(json.dumps(json.loads(json.dumps([who, asked])), sort_keys=True).encode()).hexdigest()
        self._is_first = ti.try_number <= 1
        self._store: Any = context.get("task_state_store")
        self._hook = hook
        self._is_of_use = is_of_use
        self._log = log
        self._file_id: str | None = None

    def find(self, on_unknown: OnUnknown) -> Batch | None:
        """
        Return the batch of an earlier attempt, if there is one of use.

        :param on_unknown: what to do if there may be one and nothing tells
        :raises PortkeyAttemptUnknownError: then, if it is ``"fail"``
        """
        stored = self._read()
        if stored is None and self._is_first:
            return None
        mine = stored if stored and stored.get("key") == self.key else {}
        self._file_id = mine.get("input_file_id")
        batch = None
        if batch_id := mine.get("batch_id"):
            batch = self._retrieve(batch_id)
        if batch is None:
            found = self.look_up()
            if found.batch is None and not found.is_all and (mine or self._store is None) and not batch_id:
                self._is_unknown(on_unknown)
            batch = found.batch
        elif not self._is_of_use(batch):
            self._log.info("An earlier attempt's batch is of no use: %s.", batch)
            return None
        if batch is not None:
            self._log.info("Going on with what an earlier attempt of this task created: %s.", batch)
        return batch

    def look_up(self) -> Found:
        """Look for a batch of this task in the provider's list."""
        may_be, keeps_metadata, count = False, False, 0
        try:
            for batch in islice(self._hook.list_batches(), MAX_LISTED):
                count += 1
                keeps_metadata |= bool(batch.metadata)
                of_file = self._file_id and batch.input_file_id and is_same_id(self._file_id, batch.input_file_id)
                if of_file or (batch.metadata or {}).get(METADATA_KEY) == self.key:
                    whole = self._retrieve(batch.id)
                    if whole and self._is_of_use(whole):
                        return Found(whole, True)
                elif not batch.metadata and not (self._file_id and batch.input_file_id):
                    may_be = True
        except PortkeyRefusedError as error:
            self._log.warning("The batches of earlier attempts can't be listed: %s", error)
            return Found(None, False)
        return Found(None, count < MAX_LISTED and (keeps_metadata or not may_be))

    def begin(self, input_file_id: str | None) -> None:
        """Take note that a batch is about to be created, of a file that this attempt has uploaded if there is one."""
        self._file_id = input_file_id
        self._write(key=self.key, input_file_id=input_file_id)

    def created(self, batch: Batch) -> None:
        """Take note of the batch."""
        self._write(key=self.key, input_file_id=self._file_id, batch_id=batch.id)

    def _is_unknown(self, on_unknown: OnUnknown) -> None:
        told = (
            "An earlier attempt of this task may have created a batch, and nothing tells: the provider does not show "
            "the metadata of its batches, or too many of them."
        )
        if on_unknown == "fail":
            raise PortkeyAttemptUnknownError(
                f"{told} Nothing was created, since on_unknown is 'fail'. Look at the provider's batches: wait for the "
                "one that there is with a PortkeyBatchSensor, or clear the task with on_unknown='create'."
            )
        self._log.warning("%s Creating one, since on_unknown is 'create'.", told)

    def _retrieve(self, batch_id: str) -> Batch | None:
        try:
            return self._hook.get_batch(batch_id)
        except PortkeyRefusedError as error:
            # 400 where the connection has another provider by now, to whom the id means nothing.
            if error.status_code not in (400, 404):
                raise
            self._log.warning("Batch %s of an earlier attempt is not there any more.", batch_id)
            return None

    def _read(self) -> dict[str, Any] | None:
        if self._store is None:
            return None
        try:
            stored = self._store.get(_STORE_KEY)
        except Exception as error:  # noqa: BLE001 - whatever a backend raises
            self._log.warning("Airflow's store for this task can't be read: %r", error)
            self._store = None
            return None
        return stored if isinstance(stored, dict) else None

    def _write(self, **what: str | None) -> None:
        if self._store is None:
            return
        try:
            self._store.set(_STORE_KEY, {name: value for name, value in what.items() if value is not None})
        except Exception as error:  # noqa: BLE001 - the batch has its key all the same
            self._log.warning("Airflow's store for this task can't be written: %r", error)
