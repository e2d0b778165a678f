"""
Recovery: how an attempt at creating a batch finds the batch of a previous attempt, so that none is paid for twice.

How this works. Each attempt of a task at the same work computes the same key. Its first half identifies the task
instance, its second half what the task asks for. Two places hold what a previous attempt did:

1. The task's state store (Airflow 3.3 and later). It survives retries, but cannot be written in one step with the
   creation of a batch. So an attempt writes a record before it sends anything, adds its intent (time, uploaded file)
   before the call, and the batch's id after, or that the outcome is unknown.
2. The provider's list of batches, where a batch carries the key in its metadata. Some providers drop metadata: there
   the input file identifies the batch, by the key in its name (Bedrock, Vertex), or by its recorded id if the batch was
   created after the intent.

An attempt asks the store first, and searches the list unless the store has a batch that can be reused. A batch of the
same task instance with another key was for other requests: nobody will use it, and a warning says so.

If the search is inconclusive, the store may still prove that there is nothing to find (:meth:`Attempts._is_settled`).
If it does not, a batch may exist that nobody can see: ``on_unknown`` decides whether to create another one.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote
from uuid import UUID

from airflow_provider_portkey.batch import Batch, is_object_url, is_same_id
from airflow_provider_portkey.exceptions import (
    PortkeyApiError,
    PortkeyAttemptUnknownError,
    PortkeyError,
    PortkeyRefusedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.hooks.portkey import PortkeyHook, list_pages, retrieve_file
from airflow_provider_portkey.text import duration, message

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_portkey.wait import Log

OnUnknown = Literal["create", "fail"]

#: The pair in a batch's metadata by which a later attempt finds it.
METADATA_KEY = "airflow_attempt_key"
#: How many of the newest batches are searched for it.
MAX_LISTED = 2_000
#: How many seconds after a call with an unknown outcome its batch may still appear.
SETTLING_TIME = 120.0
#: Seconds between the first two searches for it; they double with each further one.
SEARCH_INTERVAL = 5.0

_STORE_KEY = "portkey_batch"
_INTENT = ("input_file_id", "began_at", "unknown_at")
#: What :attr:`Attempts.file_name` looks like.
_FILE_NAME = re.compile(r"airflow/([0-9a-f]{64})/")
#: By how many seconds the clocks of provider and worker may differ.
_CLOCK_SKEW = 300.0


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
        ti: Any = context["ti"]
        who = [ti.dag_id, ti.run_id, ti.task_id, ti.map_index]
        # Task instances of a loop (Airflow 3.4) differ in these alone.
        region = getattr(ti, "region_id", None)
        if isinstance(region, (UUID, str, int)) and region != UUID(int=0):  # which is outside any loop
            who += [str(region), getattr(ti, "region_index", None)]
        self._task = _digest(who)
        #: Identifies the work, in a batch's metadata.
        self.key = self._task + _digest(request)
        #: The object that Bedrock or Vertex stores: in a folder of its own, which the output shares with no other.
        self.file_name = f"airflow/{self.key}/requests.jsonl"
        self._try_number: int = ti.try_number
        self._store: Any = context.get("task_state_store")
        self._hook = hook
        self._is_reusable = is_reusable
        self._log = log
        #: What is recorded of the last call that was to create a batch: ``began_at`` and the uploaded
        #: ``input_file_id``, and ``unknown_at`` if it failed with an unknown outcome. Empty if nothing was created.
        self._intent: dict[str, Any] = {}
        #: Whether the store has a record of this attempt that would prove to the next one that there is no batch.
        self._says_nothing_was_created = False
        self._on_unknown: OnUnknown = "create"
        #: Whether the record is of the attempt before this one, so that no attempt can have created a batch after it.
        self._is_latest = False
        #: Batches of this task instance that were for other requests, by id.
        self._superseded: dict[str, Batch] = {}

    def recover(self, on_unknown: OnUnknown) -> Batch | None:
        """
        Return the batch of a previous attempt, if there is a reusable one.

        :param on_unknown: what to do if this cannot be determined
        :raises PortkeyAttemptUnknownError: then, with ``"fail"``
        """
        self._on_unknown = on_unknown
        record = self._read()
        if self._try_number <= 1 and not record:
            self.record_nothing_created()
            return None
        self._is_latest = record.get("try_number") == self._try_number - 1
        if self._is_latest:
            self._set(record | {"try_number": self._try_number})  # this attempt has created nothing yet
        is_mine = record.get("key") == self.key
        if is_mine:
            self._intent = {name: record[name] for name in _INTENT if name in record}
        stored = self._retrieve(record["batch_id"]) if "batch_id" in record else None
        if stored and not is_mine:
            self._superseded[stored.id] = stored
        if stored and is_mine and self._is_usable(stored):
            result = SearchResult(stored, conclusive=True)
        else:
            result = self.search_provider(may_appear="batch_id" not in record)
        if result.batch is not None:
            self._log.info("Re-attaching to the batch created by a previous attempt: %s.", result.batch)
            self.record_created(result.batch)
            return result.batch
        self._report_superseded(on_unknown)
        # A list proves nothing if it is that of another workspace, as the connection may name by now.
        conclusive = result.conclusive and (stored is not None or "batch_id" not in record)
        if not conclusive and not self._is_settled(record, was_retrieved=stored is not None):
            self._handle_unknown(on_unknown)
        self.record_nothing_created()
        return None

    def search_provider(self, *, may_appear: bool) -> SearchResult:
        """
        Search the provider's list for a batch of this task.

        :param may_appear: whether the last call may still take effect. Then search until :data:`SETTLING_TIME` after it
        """
        called_at = self._intent.get("unknown_at") or self._intent.get("began_at") or 0.0
        until, interval = called_at + SETTLING_TIME if may_appear else 0.0, SEARCH_INTERVAL
        while True:
            left = until - time.time()
            try:
                result = self._search()
                if result.batch or left <= 0:
                    return result
            except PortkeyTransientError:
                if left <= 0:
                    raise
            if interval == SEARCH_INTERVAL:
                self._log.info("The batch may still appear: searching for it for another %s.", duration(left))
            time.sleep(min(interval, left))
            interval *= 2

    def _search(self) -> SearchResult:
        ambiguous, keeps_metadata, complete, count, seen = False, False, False, 0, True
        try:
            for page in list_pages(self._hook):
                for batch in page.batches:
                    # Cohere shows metadata of its own, which are not strings.
                    metadata = batch.metadata or {}
                    shows_metadata = bool(metadata) and all(isinstance(value, str) for value in metadata.values())
                    keeps_metadata |= shows_metadata
                    if self._is_mine(batch):
                        current = self._retrieve(batch.id)
                        seen = seen and current is not None
                        if current and self._is_usable(current):
                            return SearchResult(current, conclusive=True)
                    elif (_key_of(batch) or "").startswith(self._task):
                        self._superseded.setdefault(batch.id, batch)
                    elif not shows_metadata and not self._is_others(batch):
                        ambiguous = True
                complete = page.is_last
                count += max(1, len(page.batches))
                if count >= MAX_LISTED:
                    break
        except PortkeyRefusedError as error:
            if error.is_foreign:
                raise _not_the_gateway(error) from error
            self._log.warning("Cannot list the batches of previous attempts: %s", error)
            return SearchResult(None, conclusive=False)
        return SearchResult(None, conclusive=complete and seen and (keeps_metadata or not ambiguous))

    def _is_mine(self, batch: Batch) -> bool:
        """Whether a batch is this task's, by the key that it carries or else by its input file."""
        if (key := _key_of(batch)) is not None:
            return key == self.key
        file_id = self._intent.get("input_file_id")
        # An object of a fixed name is the input of each batch that was created with it.
        if not batch.input_file_id or not file_id or is_object_url(file_id):
            return False
        return is_same_id(file_id, batch.input_file_id) and (batch.created_at or 0) >= int(self._intent["began_at"])

    def _is_others(self, batch: Batch) -> bool:
        """Whether a batch without metadata, which is not :meth:`_is_mine`, is certainly not this task's."""
        if 0 < (batch.created_at or 0) < self._intent.get("began_at", 0.0) - _CLOCK_SKEW:
            return True
        if not batch.input_file_id:
            return False
        # A name without a key proves nothing: with some configs the gateway does not use the names that are sent.
        has_key = _FILE_NAME.search(unquote(batch.input_file_id)) is not None
        file_id = self._intent.get("input_file_id")
        return has_key or (self._is_latest and file_id is not None and not is_same_id(file_id, batch.input_file_id))

    def _is_usable(self, batch: Batch) -> bool:
        """Whether to re-attach to a batch: it is reusable, and its answers can still be downloaded."""
        if not self._is_reusable(batch):
            self._log.info(
                "Not reusing the batch of a previous attempt, since it ended badly or is being cancelled: %s.", batch
            )
            return False
        file_id = batch.output_file_id or batch.error_file_id
        # The objects of Bedrock and Vertex lie in the user's own bucket, and do not expire.
        if not batch.status.is_terminal or file_id is None or is_object_url(file_id):
            return True
        try:
            has_expired = retrieve_file(self._hook, file_id).status == "deleted"
        except PortkeyApiError as error:
            # Some providers cannot say. Then the batch, which was paid for, counts.
            has_expired = error.status_code == 404 and error.origin != "gateway"
        if has_expired:
            self._log.warning(
                "Not reusing the batch of a previous attempt, since its file %s has expired: %s.", file_id, batch
            )
        return not has_expired

    def record_intent(self, input_file_id: str | None) -> None:
        """Record that a batch is about to be created; ``input_file_id`` is the file that this attempt uploaded."""
        self._intent = {"input_file_id": input_file_id, "began_at": time.time()}
        if not self._write() and self._says_nothing_was_created and self._on_unknown == "fail":
            raise PortkeyError(
                message(
                    "The task's state store cannot be written: retry when Airflow has recovered",
                    "It still says that this attempt has created nothing, on which the next one would rely. "
                    "Nothing was created, since on_unknown is 'fail'.",
                )
            )

    def record_unknown_outcome(self) -> None:
        """Record that the call failed, but may have created a batch."""
        self._intent["unknown_at"] = time.time()
        self._write()

    def record_nothing_created(self) -> None:
        """Record that no call of this attempt has created a batch."""
        self._intent = {}
        self._says_nothing_was_created = self._write()

    def record_created(self, batch: Batch) -> None:
        """Record the batch that was created."""
        self._write(batch_id=batch.id)

    def _is_settled(self, record: dict[str, Any], *, was_retrieved: bool) -> bool:
        """
        Whether the store proves that no batch of this key exists which the search did not find.

        :param record: what the store has; empty if it has nothing, or cannot be read
        :param was_retrieved: whether the recorded batch could be retrieved
        """
        if not self._is_latest:
            return False  # the attempt in between may have created a batch, and could not write
        if record.get("key") != self.key:
            # The only previous attempt was at other work, and no call of it may take effect later.
            return self._try_number == 2 and ("batch_id" in record or "began_at" not in record)
        return was_retrieved if "batch_id" in record else "began_at" not in record

    def _report_superseded(self, on_unknown: OnUnknown) -> None:
        """
        Warn of batches that previous attempts of this task created for other requests.

        :raises PortkeyAttemptUnknownError: with ``"fail"``, if one of them is in flight
        """
        for batch in self._superseded.values():
            changed = "The requests, endpoint, completion_window or extra_body of the task have changed since then."
            if batch.status.is_terminal:
                unused = "A previous attempt's batch was for other requests: it is not used"
                self._log.warning("%s", message(unused, f"{batch}.", changed))
                continue
            details = (
                "A previous attempt's batch was for other requests: cancel it if nobody needs it",
                f"{batch}.",
                changed,
                f"To cancel it: PortkeyHook({self._hook.portkey_conn_id!r}).cancel_batch({batch.id!r})",
            )
            if on_unknown == "fail":
                raise PortkeyAttemptUnknownError(message(*details, "Nothing was created, since on_unknown is 'fail'."))
            self._log.warning("%s", message(*details))

    def _handle_unknown(self, on_unknown: OnUnknown) -> None:
        cause = "Cannot determine whether a previous attempt created a batch"
        reason = (
            "The provider does not return the metadata of its batches, or not all of them in its list, and the task's "
            "state store has no batch that can be retrieved."
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
            if error.is_foreign:
                raise _not_the_gateway(error) from error
            # 400 where the connection names another provider by now, to which the id means nothing.
            if error.status_code not in (400, 404):
                raise
            self._log.warning("Batch %s of a previous attempt no longer exists.", batch_id)
            return None

    def _read(self) -> dict[str, Any]:
        """Return this task instance's record; an empty one if there is none, or it cannot be read."""
        if self._store is None:
            return {}
        try:
            record = self._store.get(_STORE_KEY)
        except Exception as error:  # noqa: BLE001 - a backend may raise anything
            self._log.warning("Cannot read the task's state store: %s", type(error).__name__)
            return {}
        return record if isinstance(record, dict) and str(record.get("key")).startswith(self._task) else {}

    def _write(self, **values: str) -> bool:
        """Write the record of this attempt; return whether it is there."""
        if self._store is None:
            return False
        return self._set({"key": self.key, "try_number": self._try_number, **self._intent, **values})

    def _set(self, record: dict[str, Any]) -> bool:
        try:
            self._store.set(_STORE_KEY, {name: value for name, value in record.items() if value is not None})
        except Exception as error:  # noqa: BLE001 - the batch has its key all the same
            self._log.warning("Cannot write the task's state store: %s", type(error).__name__)
            return False
        return True


def _digest(value: Any) -> str:
    """Return the half of a key that stands for ``value``, the same in each version of this package."""
    # Twice, since only strings are names of members after the first time.
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _key_of(batch: Batch) -> str | None:
    """Return the key that a batch carries: in its metadata, or else in the name of its input file."""
    if (key := (batch.metadata or {}).get(METADATA_KEY)) is not None:
        return str(key)
    name = _FILE_NAME.search(unquote(batch.input_file_id or ""))
    return name and name[1]


def _not_the_gateway(error: PortkeyRefusedError) -> PortkeyTransientError:
    """What stands in front of the gateway knows nothing of its batches."""
    return PortkeyTransientError(str(error), status_code=error.status_code, origin=error.origin)
