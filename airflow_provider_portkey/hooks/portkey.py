"""The hook: Portkey's batch API, with ``requests`` on workers and ``aiohttp`` in the triggerer."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Literal

from airflow_provider_portkey import calls
from airflow_provider_portkey.batch import BatchStatus
from airflow_provider_portkey.exceptions import (
    PortkeyApiError,
    PortkeyError,
    PortkeyInputError,
    PortkeyTransientError,
)
from airflow_provider_portkey.failures import error_from_response, no_rows
from airflow_provider_portkey.files import ProgressLogger, atomic_write, storage_path
from airflow_provider_portkey.get_provider_info import CONNECTION_TYPE
from airflow_provider_portkey.hooks.calling import BuildRequest, CallingHook
from airflow_provider_portkey.http import Request
from airflow_provider_portkey.manifest import Download, FileStats
from airflow_provider_portkey.problems import NOTHING_SENT
from airflow_provider_portkey.provider_file import File
from airflow_provider_portkey.settings import Settings
from airflow_provider_portkey.text import message
from airflow_provider_portkey.transport import sync
from airflow_provider_portkey.wait import as_seconds

if TYPE_CHECKING:
    from pathlib import Path

    import requests
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_portkey.batch import Batch, BatchId
    from airflow_provider_portkey.files import AnyPath

# How much of a file, and for how long, is read to report why requests failed.
_MAX_GLANCE_BYTES, _MAX_GLANCE_SECONDS = 2**20, 10.0


class PortkeyHook(CallingHook):
    """
    Calls Portkey's batch API with the credentials of an Airflow connection of type ``portkey``.

    Each call has its own time limit, and is sent up to three times if its failure may be transient. The hook notices a
    changed connection: it reads it again after a refusal, once, and after any other failure before the next call.

    ``async with hook:`` keeps its HTTP session open over several asynchronous calls. Hooks on one event loop share the
    lookups of their connection and, if their settings are equal, the session and its rate limit.

    What its methods raise is listed in :mod:`airflow_provider_portkey.exceptions`.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/retrieve-batch

    :param portkey_conn_id: the id of the Airflow connection
    :param headers: headers to send in addition to the connection's, or instead of those of the same names: bucket,
        region, model, ... They may not hold credentials, which belong on the connection
    """

    conn_name_attr = "portkey_conn_id"
    default_conn_name = "portkey_default"
    conn_type = "portkey"
    hook_name = "Portkey"

    def __init__(self, portkey_conn_id: str = default_conn_name, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(portkey_conn_id, headers)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return Airflow 2's description of the connection form; Airflow 3 reads the provider's metadata."""
        behaviour = CONNECTION_TYPE["ui-field-behaviour"]
        return {name.replace("-", "_"): value for name, value in behaviour.items()}

    def get_batch(self, batch_id: BatchId, *, retry_within: float | None = None) -> Batch:
        """
        Retrieve a batch.

        :param batch_id: the batch's id, plain or percent-encoded, or the dict of a batch
        :param retry_within: for a caller that polls: seconds after which no further attempt begins. A rate limit
            without ``Retry-After`` is then left to the caller's next poll; default: no limit
        :return: the batch as its provider describes it now
        """
        return self._call(
            partial(calls.retrieve_batch, batch_id=batch_id),
            sync.send_and_read(partial(calls.read_batch, batch_id=batch_id)),
            retry_within,
        )

    async def aget_batch(self, batch_id: BatchId, *, retry_within: float | None = None) -> Batch:
        """Retrieve a batch without blocking the event loop. See :meth:`get_batch`."""
        return await self._acall(
            partial(calls.retrieve_batch, batch_id=batch_id),
            partial(calls.read_batch, batch_id=batch_id),
            retry_within,
        )

    def create_batch(
        self,
        input_file_id: str | None,
        endpoint: str,
        *,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> Batch:
        """
        Create a batch. It is paid for, so the call is repeated only if the first one certainly had no effect.

        .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/create-batch

        :param input_file_id: the file of requests, as :meth:`upload_file` returns it; ``None`` if ``extra_body`` has
            ``input_blob``
        :param endpoint: the API endpoint that each request calls, such as ``/v1/chat/completions``
        :param completion_window: time in which the provider processes the batch, such as ``24h``
        :param metadata: up to 16 pairs of strings for the batch to keep, if its provider does
        :param extra_body: further members of the request's body, such as ``model``, ``role_arn``, ``portkey_options``
        :return: the batch as its provider describes it at once; some return the id alone
        :raises PortkeyOutcomeUnknownError: if the call failed, but a batch may exist all the same
        """
        build = partial(
            calls.create_batch,
            input_file_id=input_file_id,
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=metadata,
            extra_body=extra_body,
        )
        return self._call(build, sync.send_and_read(calls.read_created_batch))

    def list_batches(self) -> Iterator[Batch]:
        """
        Iterate over the batches of the connection's provider, page by page, newest first if the provider sorts them.

        Some providers return no more than a first page. No batch is returned twice.

        .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/list-batches
        """
        for page in self._pages():
            yield from page.batches

    def _pages(self) -> Iterator[calls.Page]:
        listing = calls.Listing()
        while not listing.is_over:
            build = partial(calls.list_batches, after=listing.after)
            yield from listing.add(self._call(build, sync.send_and_read(calls.read_page)))

    def cancel_batch(self, batch_id: BatchId, *, retry_within: float | None = None) -> Batch:
        """
        Request the cancellation of a batch, and retrieve it. A batch that has ended or is being cancelled is no error.

        The provider may take minutes: until then the status is ``cancelling``, or still the one before.

        .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/cancel-batch

        :param batch_id: the batch's id, plain or percent-encoded, or the dict of a batch
        :param retry_within: seconds after which no further attempt begins; default: no limit
        :return: the batch after the request
        :raises PortkeyApiError: if the request failed and the batch is still in flight
        """
        build = partial(calls.cancel_batch, batch_id=batch_id)
        try:
            self._call(build, sync.send_and_read(calls.read_accepted), retry_within)
        except PortkeyApiError:
            # The batch's status decides: LiteLLM, for one, responds with HTTP 500 to a batch that has ended.
            with suppress(PortkeyApiError):
                batch = self.get_batch(batch_id, retry_within=retry_within)
                if batch.status.is_terminal or batch.status is BatchStatus.CANCELLING:
                    return batch
            raise
        return self.get_batch(batch_id, retry_within=retry_within)

    async def acancel_batch(self, batch_id: BatchId) -> None:
        """Request the cancellation of a batch without blocking the event loop. See :meth:`cancel_batch`."""
        await self._acall(partial(calls.cancel_batch, batch_id=batch_id), calls.read_accepted)

    def upload_file(
        self,
        path: AnyPath,
        *,
        purpose: str = "batch",
        name: str | None = None,
        expires_after: timedelta | float | None = None,
    ) -> str:
        """
        Upload a file, streamed from local disk or from any object storage that Airflow supports.

        .. seealso:: https://portkey.ai/docs/api-reference/inference-api/files/upload-file

        :param path: a path or URL of Airflow's object storage, such as ``s3://aws_default@bucket/requests.jsonl``
        :param purpose: the file's purpose, in Portkey's words
        :param name: the name of the object that Bedrock or Vertex stores, folders included; default: a new one. Two
            uploads of one name overwrite each other
        :param expires_after: seconds or timedelta after which the provider deletes the file, if it can (OpenAI, Azure);
            default: the provider's own
        :return: the file's id. Azure and Cohere process a file before a batch can read it
        :raises OSError: if the file cannot be read
        """
        return self._upload(path, purpose, name, expires_after).id

    def _upload(self, path: AnyPath, purpose: str, name: str | None, expires_after: timedelta | float | None) -> File:
        source = storage_path(path)
        filename = source.name
        if purpose == "batch" and not filename.endswith(".jsonl"):
            filename += ".jsonl"  # Bedrock and OpenAI reject other extensions
        if name is not None and not (name.isascii() and name.isprintable() and name.strip()):
            raise PortkeyInputError(message(f"name must be printable ASCII, got {name!r}", NOTHING_SENT))
        fields = {"purpose": purpose}
        if expires_after is not None:
            seconds = as_seconds("expires_after", expires_after)
            fields |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": f"{seconds:.0f}"}
        object_name = name or f"airflow/{uuid.uuid4()}/{re.sub('[^A-Za-z0-9._-]', '_', filename)}"

        def send(session: requests.Session, request: Request, settings: Settings) -> File:
            from requests_toolbelt import MultipartEncoder

            with source.open("rb") as file:  # type: ignore[no-untyped-call]
                size = source.stat().st_size
                part = sync.FilePart(file, size, ProgressLogger(self.log, f"Uploading {source.name}", size))
                form = MultipartEncoder(fields | {"file": (filename, part, "application/jsonl")})
                headers = {"Content-Type": form.content_type, calls.FILE_NAME_HEADER: object_name}
                try:
                    response = sync.send(session, request, settings, form, headers)
                except PortkeyTransientError:
                    if part.failure is None:
                        raise
            if part.failure is not None:
                raise part.failure
            return calls.read_file(response, request, settings)

        return self._call(partial(calls.upload_file, filename=filename), send)

    def download_file(self, file_id: str, path: AnyPath) -> Download:
        """
        Download a file, streamed to local disk or to any object storage that Airflow supports.

        The file appears under its name whole or not at all. Until then, what was there before stays.

        .. seealso:: https://portkey.ai/docs/api-reference/inference-api/files/retrieve-file-content

        :param file_id: the file's id, plain or percent-encoded
        :param path: a path or URL of Airflow's object storage, such as ``s3://aws_default@bucket/output.jsonl``
        :return: what the file holds
        :raises OSError: if the file cannot be written
        """
        target = storage_path(path)
        build = partial(calls.retrieve_file_content, file_id=file_id)
        return Download(file_id, str(target), self._receive(build, partial(atomic_write, target)))

    def download_output(self, batch: Batch | BatchId, path: AnyPath) -> Download:
        """
        Download a batch's output, as Portkey makes it of the provider's files, as :meth:`download_file` does a file.

        It is the only way to the answers of some providers (Anthropic, Cohere). Where there is a file, prefer that:
        this way leaves out an OpenAI batch's failed requests, does not name Bedrock's, and may damage text of Vertex
        that is not ASCII.

        .. seealso:: https://portkey.ai/docs/product/ai-gateway/batches

        :param batch: the batch, its dict or its id
        :param path: a path or URL of Airflow's object storage, such as ``s3://aws_default@bucket/output.jsonl``
        :return: what the output holds
        :raises PortkeyTransientError: if it has no row: an empty response is not an answer
        :raises OSError: if the file cannot be written
        """
        target = storage_path(path)
        build = partial(calls.retrieve_batch_output, batch_id=batch)
        return Download(None, str(target), self._receive(build, partial(atomic_write, target), rows="needed"))

    def _receive(
        self,
        build: BuildRequest,
        open_target: Callable[[], AbstractContextManager[IO[bytes] | None]],
        *,
        rows: Literal["optional", "readable", "needed"] = "optional",
    ) -> FileStats:
        def receive(session: requests.Session, request: Request, settings: Settings) -> FileStats:
            stats = FileStats(settings.redact)
            with sync.open_response(session, request, settings) as response:
                if not 200 <= response.status_code < 300:
                    body = sync.read_response_body(response, request, settings, time.monotonic())
                    raise error_from_response(body, request, settings)
                total = None if response.headers.get("content-encoding") else response.raw.length_remaining
                progress = ProgressLogger(self.log, request.subject.capitalize(), total)
                head = b""
                with open_target() as file:
                    for chunk in sync.read_chunks(response, request, settings):
                        if len(head) < calls.MAX_ERROR_BYTES:
                            head += chunk
                        if file is not None:
                            file.write(chunk)
                        stats.add(chunk)
                        progress.add(len(chunk))
                    stats.end_line()
                    calls.check_file_content(sync.as_response(response, head), request, settings)
                    expected = rows == "needed" or (rows == "readable" and stats.lines)
                    if expected and not stats.has_readable_rows:
                        raise no_rows(sync.as_response(response, head), request, settings)
            return stats

        return self._call(build, receive)

    @property
    def base_url(self) -> str:
        """The base URL of the connection, ending in ``/v1``."""
        return (self._settings or self._read_connection()).base_url

    def get_conn(self) -> requests.Session:
        """
        Return a session with the connection's credentials, for calls that this hook does not have.

        Their URLs begin with :attr:`base_url`. A redirect raises ``requests.TooManyRedirects``, since following it
        would send the API key to another address. Pass a ``timeout`` to each call, and close the session after use.
        """
        session = sync.open_session(self._settings or self._read_connection())
        session.hooks["response"].append(sync.refuse_redirect)
        return session

    def test_connection(self) -> tuple[bool, str]:
        """
        Ask Portkey for a list of one batch, with all that the connection sets.

        :return: whether that succeeded, and otherwise who refused what, and why
        """
        # Airflow's form tests a connection under a passing name, which means nothing to whoever reads the result.
        self._shown_id = ""
        try:
            settings = self._read_connection()
            request = calls.list_batches(settings, limit=1)
            with sync.open_session(settings) as session:
                calls.read_page(sync.send(session, request, settings), request, settings)
        except PortkeyError as error:
            return False, str(error)
        finally:
            self._shown_id, self._settings = self.portkey_conn_id, None
        return True, f"{settings.base_url} accepts the key and the provider, and lists batches."


def create_inline_batch(hook: PortkeyHook, body: Path) -> Batch:
    """Do what :meth:`PortkeyHook.create_batch` does, with the whole body of the call. For this package alone."""

    def send(session: requests.Session, request: Request, settings: Settings) -> Batch:
        with body.open("rb") as file:
            response = sync.send(session, request, settings, file, {"Content-Type": "application/json"})
        return calls.read_created_batch(response, request, settings)

    return hook._call(calls.create_inline_batch, send)


def upload_requests(hook: PortkeyHook, path: Path, name: str | None, expires_after: timedelta | float | None) -> File:
    """Do what :meth:`PortkeyHook.upload_file` does, and return all that is known. For this package alone."""
    return hook._upload(path, "batch", name, expires_after)


def retrieve_file(hook: PortkeyHook, file_id: str) -> File:
    """Retrieve what a provider knows of a file, in one attempt. For this package alone."""
    build = partial(calls.retrieve_file, file_id=file_id)
    return hook._call(build, sync.send_and_read(calls.read_file), retry_within=0)


def download_rows(hook: PortkeyHook, file_id: str, path: ObjectStoragePath, *, may_be_empty: bool) -> Download:
    """Do what :meth:`PortkeyHook.download_file` does, for a file of rows alone. For this package alone."""
    build = partial(calls.retrieve_file_content, file_id=file_id)
    rows: Literal["readable", "needed"] = "readable" if may_be_empty else "needed"
    return Download(file_id, str(path), hook._receive(build, partial(atomic_write, path), rows=rows))


def read_first_rows(hook: PortkeyHook, file_id: str) -> FileStats:
    """
    Read the beginning of a file, in one attempt and within some seconds, and return what it holds.

    For this package alone.
    """

    def receive(session: requests.Session, request: Request, settings: Settings) -> FileStats:
        stats, deadline = FileStats(settings.redact), time.monotonic() + _MAX_GLANCE_SECONDS
        limits = {name: min(getattr(settings, name), _MAX_GLANCE_SECONDS) for name in ("timeout", "connect_timeout")}
        brief = replace(settings, **limits)
        with sync.open_response(session, request, brief) as response:
            if not 200 <= response.status_code < 300:
                body = sync.read_response_body(response, request, brief, time.monotonic())
                raise error_from_response(body, request, settings)
            for chunk in sync.read_chunks(response, request, brief):
                stats.add(chunk)
                if stats.bytes >= _MAX_GLANCE_BYTES or time.monotonic() > deadline:
                    return stats  # without its last row, of which a part may be missing
        stats.end_line()
        return stats

    return hook._call(partial(calls.retrieve_file_content, file_id=file_id), receive, retry_within=0)


def list_pages(hook: PortkeyHook) -> Iterator[calls.Page]:
    """Iterate over the pages of :meth:`PortkeyHook.list_batches`. For this package alone."""
    return hook._pages()


async def alist_pages(hook: PortkeyHook) -> AsyncIterator[calls.Page]:
    """Iterate over the pages of :meth:`PortkeyHook.list_batches` on an event loop. For this package alone."""
    listing = calls.Listing()
    while not listing.is_over:
        for page in listing.add(await hook._acall(partial(calls.list_batches, after=listing.after), calls.read_page)):
            yield page


def read_file_stats(hook: PortkeyHook, file_id: str) -> FileStats:
    """Read a file and return what it holds, without storing it. For this package alone."""
    return hook._receive(partial(calls.retrieve_file_content, file_id=file_id), nullcontext)
