"""
The creation of one batch: upload its requests, wait until the provider has processed them, create it.

It is paid for: whatever fails on the way, the next attempt must find what was created. See
:mod:`airflow_provider_portkey.attempts`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_portkey.exceptions import (
    PortkeyApiError,
    PortkeyError,
    PortkeyOutcomeUnknownError,
    PortkeyRefusedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.hooks.portkey import PortkeyHook, create_inline_batch, retrieve_file, upload_requests
from airflow_provider_portkey.provider_file import File
from airflow_provider_portkey.text import duration, message

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_portkey.attempts import Attempts
    from airflow_provider_portkey.batch import Batch
    from airflow_provider_portkey.wait import Log

#: Seconds between two polls of a file.
FILE_POLL_INTERVAL = 5.0


@dataclass(frozen=True)
class Source:
    """
    The requests of a batch.

    :param identity: the digest of the requests, or the id of their file: the same requests have the same one
    :param file_id: a file that was uploaded before
    :param path: otherwise a file to upload, or the body of the call if ``inline``
    :param inline: whether the call itself has the requests
    :param expires_after: seconds or timedelta after which the provider deletes the uploaded file
    """

    identity: str
    file_id: str | None = None
    path: Path | None = None
    inline: bool = False
    expires_after: timedelta | float | None = None


def create_batch(
    hook: PortkeyHook,
    source: Source,
    fields: dict[str, Any],
    attempts: Attempts | None,
    *,
    check_alive: Callable[[], None],
    log: Log,
) -> Batch:
    """
    Create a batch.

    :param fields: of :meth:`PortkeyHook.create_batch`
    :param attempts: what finds the batch again after a failure, ``None`` if nothing is to
    :param check_alive: raises if the task was killed, the last moment before the batch is paid for
    :raises PortkeyOutcomeUnknownError: if a batch may exist that was not found
    """
    file_id, is_uploaded = source.file_id, False
    if source.path and not source.inline:
        file = upload_requests(hook, source.path, attempts.file_name if attempts else None, source.expires_after)
        file_id, is_uploaded = file.id, True
        wait_for_file(hook, file, check_alive=check_alive, log=log)
    elif file_id is not None:
        wait_for_file(hook, File(file_id, None, ""), check_alive=check_alive, log=log)
    if source.path and source.inline:
        create = partial(create_inline_batch, hook, source.path)
    else:
        create = partial(hook.create_batch, file_id, **fields)
    if attempts:
        attempts.record_intent(file_id if is_uploaded else None)
    try:
        check_alive()
        batch = create()
    except PortkeyOutcomeUnknownError as error:
        batch = _find_created(attempts, error, log)
    except PortkeyError as error:
        if attempts:
            attempts.record_nothing_created()
        if is_uploaded and isinstance(error, PortkeyRefusedError) and _is_about_file(error, file_id):
            raise _file_not_ready(error) from error
        raise
    if attempts:
        attempts.record_created(batch)
    return batch


def wait_for_file(hook: PortkeyHook, file: File, *, check_alive: Callable[[], None], log: Log) -> None:
    """
    Wait until a provider has processed a file, as Azure and Cohere do, or does not report that.

    :param file: as it is known so far
    :raises PortkeyRefusedError: if the provider cannot process the file
    """
    began = time.monotonic()
    announced = False
    while not file.has_failed and (left := began + file.wait - time.monotonic()) > 0:
        check_alive()
        try:
            file = retrieve_file(hook, file.id)
        except PortkeyTransientError as error:
            log.warning("Cannot retrieve file %s: %s", file.id, error)
        except PortkeyRefusedError:
            return  # Not each provider has this call. One that needs it will reject the batch.
        else:
            if file.status is None:
                return
        if file.has_failed or not file.wait:
            break
        if not announced:
            announced = True
            log.info("File %s is %s: waiting for it, at most %s.", file.id, file.status, duration(file.wait))
        time.sleep(min(FILE_POLL_INTERVAL, left))
    if file.has_failed:
        reason = file.reason or "it gave no reason"
        raise PortkeyRefusedError(
            message(
                "The provider could not process the input file: check its requests",
                f"File {file.id} is {file.status}: {reason}.",
                "Nothing was created.",
            ),
            origin="provider",
        )


def _find_created(attempts: Attempts | None, error: PortkeyOutcomeUnknownError, log: Log) -> Batch:
    """Return the batch that a failed call created all the same."""
    log.warning("%s", error)
    found = None
    if attempts:
        attempts.record_unknown_outcome()
        with suppress(PortkeyApiError):  # the original error says more
            found = attempts.search_provider(may_appear=True).batch
    if found is None:
        raise error
    return found


def _is_about_file(error: PortkeyRefusedError, file_id: str | None) -> bool:
    """Whether a refusal is about the input file, which a provider may not have processed yet."""
    text = error.response_text
    names_it = (file_id or "") in text or re.search(r"\bfile|dataset", text, re.IGNORECASE)
    return error.status_code in (400, 404) and bool(names_it)


def _file_not_ready(error: PortkeyRefusedError) -> PortkeyTransientError:
    return PortkeyTransientError(
        message("The provider rejects the file that was just uploaded: usually temporary, retry later", str(error)),
        status_code=error.status_code,
        origin=error.origin,
        response_text=error.response_text,
    )
