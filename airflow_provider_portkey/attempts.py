"""
Recovery: how an attempt at creating a batch finds the batch of a previous attempt, so that none is paid for twice.

How this works. Each attempt of a task at the same work computes the same key, from the task instance and what it asks
for. Two places hold what a previous attempt did:

1. The task's state store (Airflow 3.3 and later). It survives retries, but cannot be written in one step with the
   creation of a batch. So an attempt records its intent (key, uploaded file) before the call, and the batch's id after.
2. The provider's list of batches, where a batch carries the key in its metadata. Some providers drop metadata: there
   the input file identifies the batch, by the key in its name (Bedrock, Vertex) or by its recorded id.

An attempt asks the store first, then searches the list. A store without a record is conclusive: nothing was created. If
neither is conclusive, a batch may exist that nobody can see: ``on_unknown`` decides whether to create another one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from airflow_provider_portkey.batch import Batch, is_same_id
from airflow_provider_portkey.exceptions import PortkeyAttemptUnknownError, PortkeyRefusedError
from airflow_provider_portkey.hooks.portkey import PortkeyHook, list_pages
from airflow_provider_portkey.text import message

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_portkey.wait import Log

OnUnknown = Literal["create", "fail"]

#: The pair in a batch's metadata by which a later attempt finds it.
METADATA_KEY = "airflow_attempt_key"
#: How many of the newest batches are searched for it.
MAX_LISTED = 2_000

_STORE_KEY = "portkey_batch"
#: What :attr:`Attempts.file_name` looks like.
_FILE_NAME = re.compile(r"airflow/[0-9a-f]{64}/")


@dataclass(frozen=True)
class SearchResult:
    """
    The result of a search through the provider's list.

    :param batch: a reusable batch of this task, if there is one
    :param conclusive: whether it is certain that there is no other
    """

    batch: Batch | None
    conclusive: bool


class Attempts:
    """
    The attempts of a task instance at creating one batch.

    :param context: the task's context
    :param request: what the batch is to do, as JSON types: with another request, the batch is another
    :param hook: the hook of the task's connection
    :param is_reusable: whether to re-attach to a batch
    :param log: the task's logger
    """

    def __init__(
        self,
        context: Context,
        request: Any,
        *,
        hook: PortkeyHook,
        is_reusable: Callable[[Batch], bool],
        log: Log,
    ) -> None:
        ti = context["ti"]
        who = (ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        #: Identifies the work, in a batch's metadata.
        self.key = hashlib.sha256(
            json.dumps(json.loads(json.dumps([who, request])), sort_keys=True).encode()
        ).hexdigest()
        #: The object that Bedrock or Vertex stores: in a folder of its own, which the output shares with no other.
        self.file_name = f"airflow/{self.key}/requests.jsonl"
        self._is_first = ti.try_number <= 1
        self._store: Any = context.get("task_state_store")
        self._hook = hook
        self._is_reusable = is_reusable
        self._log = log
        self._file_id: str | None = None

    def recover(self, on_unknown: OnUnknown) -> Batch | None:
        """
        Return the batch of a previous attempt, if there is a reusable one.

        :param on_unknown: what to do if this cannot be determined
        :raises PortkeyAttemptUnknownError: then, with ``"fail"``
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
            result = self.search_provider()
            if result.batch is None and not result.conclusive and (mine or self._store is None) and not batch_id:
                self._handle_unknown(on_unknown)
            batch = result.batch
        elif not self._is_reusable(batch):
            self._log.info(
                "Not reusing the batch of a previous attempt, since it ended badly or is being cancelled: %s.", batch
            )
            return None
        if batch is not None:
            self._log.info("Re-attaching to the batch created by a previous attempt: %s.", batch)
        return batch

    def search_provider(self) -> SearchResult:
        """Search the provider's list for a batch of this task."""
        ambiguous, keeps_metadata, complete, count = False, False, False, 0
        try:
            for page in list_pages(self._hook):
                for batch in page.batches:
                    # Cohere shows metadata of its own, which are not strings.
                    metadata = batch.metadata or {}
                    shows_metadata = bool(metadata) and all(isinstance(value, str) for value in metadata.values())
                    keeps_metadata |= shows_metadata
                    if self._is_mine(batch):
                        current = self._retrieve(batch.id)
                        if current and self._is_reusable(current):
                            return SearchResult(current, conclusive=True)
                    elif not shows_metadata and not self._is_others(batch):
                        ambiguous = True
                complete = page.is_last
                count += max(1, len(page.batches))
                if count >= MAX_LISTED:
                    break
        except PortkeyRefusedError as error:
            self._log.warning("Cannot list the batches of previous attempts: %s", error)
            return SearchResult(None, conclusive=False)
        return SearchResult(None, conclusive=complete and (keeps_metadata or not ambiguous))

    def _is_mine(self, batch: Batch) -> bool:
        """Whether a batch is this task's, by its metadata or else by its input file."""
        key = (batch.metadata or {}).get(METADATA_KEY)
        if key is not None or not batch.input_file_id:
            return key == self.key
        return self.key in batch.input_file_id or bool(self._file_id and is_same_id(self._file_id, batch.input_file_id))

    def _is_others(self, batch: Batch) -> bool:
        """Whether a batch without metadata, which is not :meth:`_is_mine`, is certainly not this task's."""
        if not batch.input_file_id:
            return False
        # A name without a key proves nothing: with some configs the gateway does not use the names that are sent.
        return self._file_id is not None or _FILE_NAME.search(unquote(batch.input_file_id)) is not None

    def record_intent(self, input_file_id: str | None) -> None:
        """Record that a batch is about to be created; ``input_file_id`` is the file that this attempt uploaded."""
        self._file_id = input_file_id
        self._write(key=self.key, input_file_id=input_file_id)

    def record_created(self, batch: Batch) -> None:
        """Record the batch that was created."""
        self._write(key=self.key, input_file_id=self._file_id, batch_id=batch.id)

    def _handle_unknown(self, on_unknown: OnUnknown) -> None:
        cause = "Cannot determine whether a previous attempt created a batch"
        reason = (
            "The provider does not return the metadata of its batches, or not all of them in its list, and the task's "
            "state store has no batch id."
        )
        if on_unknown == "fail":
            raise PortkeyAttemptUnknownError(
                message(
                    f"{cause}: check the provider's batches",
                    f"{reason} Nothing was created, since on_unknown is 'fail'.",
                    "If there is a batch, wait for it with a PortkeyBatchSensor. If there is none, clear the task with "
                    "on_unknown='create'.",
                )
            )
        self._log.warning("%s: creating one, since on_unknown is 'create'. %s", cause, reason)

    def _retrieve(self, batch_id: str) -> Batch | None:
        try:
            return self._hook.get_batch(batch_id)
        except PortkeyRefusedError as error:
            # 400 where the connection names another provider by now, to which the id means nothing.
            if error.status_code not in (400, 404):
                raise
            self._log.warning("Batch %s of a previous attempt no longer exists.", batch_id)
            return None

    def _read(self) -> dict[str, Any] | None:
        if self._store is None:
            return None
        try:
            stored = self._store.get(_STORE_KEY)
        except Exception as error:  # noqa: BLE001 - a backend may raise anything
            self._log.warning("Cannot read the task's state store: %r", error)
            self._store = None
            return None
        return stored if isinstance(stored, dict) else None

    def _write(self, **values: str | None) -> None:
        if self._store is None:
            return
        try:
            self._store.set(_STORE_KEY, {name: value for name, value in values.items() if value is not None})
        except Exception as error:  # noqa: BLE001 - the batch has its key all the same
            self._log.warning("Cannot write the task's state store: %r", error)
