"""The hook: an Airflow connection put to use, with ``requests`` on workers and ``aiohttp`` in the triggerer."""

from __future__ import annotations

import asyncio
import base64
import copy
import math
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary, WeakValueDictionary

from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException, BaseHook, mask_secret

from airflow_provider_portkey import api
from airflow_provider_portkey.batch import BatchStatus, shorten
from airflow_provider_portkey.exceptions import (
    PortkeyConnectionNotFoundError,
    PortkeyError,
    PortkeyInputError,
    PortkeyOutcomeUnknownError,
    PortkeyRefusedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.files import Download, Meter, Tally, storage_path, written_whole
from airflow_provider_portkey.get_provider_info import CONNECTION_TYPE

if TYPE_CHECKING:
    import ssl

    import aiohttp
    import requests
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_portkey.batch import Batch
    from airflow_provider_portkey.files import AnyPath

T = TypeVar("T")
_Make: TypeAlias = Callable[[api.Settings], api.Request]
_Read: TypeAlias = Callable[[api.Response, api.Request, api.Settings], T]
_Do: TypeAlias = "Callable[[requests.Session, api.Request, api.Settings], T]"

# HTTP libraries and tenacity are imported where they are first used: parsing a DAG must not pay for them.

#: How many seconds old a look-up of a connection may be for a hook that begins to use it on an event loop.
LOOKUP_AGE = 60.0
#: How many seconds a call waits for one.
LOOKUP_TIMEOUT = 60.0


class PortkeyHook(BaseHook):
    """
    Talks to Portkey's batch API with what an Airflow connection of type ``portkey`` says.

    Each call has its own time limit and is sent up to three times when a failure may pass. A connection that was
    changed is noticed: a refusal makes the hook read it again, once, and a call that failed otherwise makes the
    next one read it again.

    ``async with hook:`` keeps its HTTP session over several asynchronous calls. Hooks on one event loop share the
    look-ups of their connection, the session if their settings are equal, and what ``Retry-After`` asks of it.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/retrieve-batch

    :param portkey_conn_id: the id of the Airflow connection
    """

    conn_name_attr = "portkey_conn_id"
    default_conn_name = "portkey_default"
    conn_type = "portkey"
    hook_name = "Portkey"

    def __init__(self, portkey_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.portkey_conn_id = portkey_conn_id
        self._settings: api.Settings | None = None
        #: Whether Airflow may be asked for the connection once it is known. In a signal handler it may not: on Airflow
        #: 3 whoever was interrupted may be asking it something, and holds its lock.
        self.may_look_up = True
        # After a failure the connection is read again, if Airflow gives it: its host may have moved.
        self._reread = False
        self._not_before = time.monotonic() - LOOKUP_AGE
        self._lookup: _Lookup | None = None
        self._entered = 0
        self._kept = AsyncExitStack()
        self._kept_for: api.Settings | None = None

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return how Airflow 2 shows the connection form; Airflow 3 reads the provider's metadata."""
        behaviour = CONNECTION_TYPE["ui-field-behaviour"]
        return {name.replace("-", "_"): value for name, value in behaviour.items()}

    def get_batch(self, batch_id: str, *, retry_within: float | None = None) -> Batch:
        """
        Retrieve a batch.

        :param batch_id: the batch's id, plain or percent-encoded
        :param retry_within: seconds after which no further attempt is begun; default: no limit
        :raises PortkeyInputError: if the connection or ``batch_id`` can't be used; nothing was sent
        :raises PortkeyConnectionNotFoundError: if there is no such connection
        :raises PortkeyRefusedError: if the call was refused and will be until somebody changes something
        :raises PortkeyTransientError: if the call failed, but may succeed later
        """
        return self._call(
            partial(api.retrieve_batch, batch_id=batch_id),
            _sending(partial(api.read_batch, batch_id=batch_id)),
            retry_within,
        )

    async def aget_batch(self, batch_id: str, *, retry_within: float | None = None) -> Batch:
        """Retrieve a batch without blocking the event loop. See :meth:`get_batch`."""
        return await self._acall(
            partial(api.retrieve_batch, batch_id=batch_id), partial(api.read_batch, batch_id=batch_id), retry_within
        )

    def create_batch(
        self,
        input_file_id: str,
        endpoint: str,
        *,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> Batch:
        """
        Create a batch. Sent again only where the first call surely had no effect, since each batch is paid for.

        .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/create-batch

        :param input_file_id: the file of requests, as :meth:`upload_file` returns it
        :param endpoint: what each request asks, such as ``/v1/chat/completions``
        :param completion_window: time in which the provider processes it, ``24h`` or what else it offers
        :param metadata: up to 16 pairs of strings that the batch keeps, if its provider does
        :param extra_body: further members of the request's body, such as ``model``, ``role_arn``, ``portkey_options``
        :return: the batch as its provider describes it at once; some give the id alone
        :raises PortkeyInputError: if the connection or an argument can't be used; nothing was sent
        :raises PortkeyOutcomeUnknownError: if the call failed, and a batch may have been created all the same
        :raises PortkeyRefusedError: if the call was refused and will be until somebody changes something
        :raises PortkeyTransientError: if the call failed without effect, but may succeed later
        """
        make = partial(
            api.create_batch,
            input_file_id=input_file_id,
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=metadata,
            extra_body=extra_body,
        )
        return self._call(make, _sending(api.read_created))

    def list_batches(self) -> Iterator[Batch]:
        """
        Iterate over the batches of the connection's provider, newest first where it sorts them, page by page.

        Some providers give no more than a first page. For what each page may raise see :meth:`get_batch`.

        .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/list-batches
        """
        after = None
        asked: set[str | None] = set()
        while after not in asked:
            asked.add(after)
            page = self._call(partial(api.list_batches, after=after), _sending(api.read_page))
            yield from page.batches
            if page.after is None:
                return
            after = page.after

    def cancel_batch(self, batch_id: str, *, retry_within: float | None = None) -> Batch:
        """
        Ask for a batch to be cancelled, and retrieve it. That it ended before, or is being cancelled, is no error.

        The provider may take minutes: until then the status is ``cancelling``, or still what it was.

        .. seealso:: https://portkey.ai/docs/api-reference/inference-api/batch/cancel-batch

        :param batch_id: the batch's id, plain or percent-encoded
        :param retry_within: seconds after which no further attempt is begun; default: no limit
        :raises PortkeyRefusedError: if the call was refused, and the batch goes on; for what else see :meth:`get_batch`
        """
        refusal = None
        try:
            self._call(partial(api.cancel_batch, batch_id=batch_id), _sending(api.read_nothing), retry_within)
        except PortkeyRefusedError as error:
            refusal = error
        batch = self.get_batch(batch_id, retry_within=retry_within)
        if refusal and not batch.status.is_terminal and batch.status is not BatchStatus.CANCELLING:
            raise refusal
        return batch

    async def acancel_batch(self, batch_id: str) -> None:
        """Ask for a batch to be cancelled, without blocking the event loop. See :meth:`cancel_batch`."""
        await self._acall(partial(api.cancel_batch, batch_id=batch_id), api.read_nothing)

    def upload_file(self, path: AnyPath, *, purpose: str = "batch") -> str:
        """
        Upload a file, streamed from wherever :class:`~airflow.sdk.ObjectStoragePath` reaches.

        .. seealso:: https://portkey.ai/docs/api-reference/inference-api/files/upload-file

        :param path: a path or URL of Airflow's object storage, such as ``s3://aws_default@bucket/requests.jsonl``
        :param purpose: what for, in Portkey's words
        :return: the file's id
        :raises OSError: if the file can't be read; for what else see :meth:`get_batch`
        """
        source = storage_path(path)

        def send(session: requests.Session, request: api.Request, settings: api.Settings) -> str:
            from requests_toolbelt import MultipartEncoder

            with source.open("rb") as file:  # type: ignore[no-untyped-call]
                size = source.stat().st_size
                part = _Part(file, size, Meter(self.log, f"Uploading {source.name}", size))
                form = MultipartEncoder({"purpose": purpose, "file": (source.name, part, "application/jsonl")})
                try:
                    response = _send(session, request, settings, form, {"Content-Type": form.content_type})
                except PortkeyTransientError:
                    if part.failure is None:
                        raise
            if part.failure is not None:
                raise part.failure
            return api.read_file_id(response, request, settings)

        return self._call(partial(api.upload_file, filename=source.name), send)

    def download_file(self, file_id: str, path: AnyPath) -> Download:
        """
        Download a file to wherever :class:`~airflow.sdk.ObjectStoragePath` reaches, streamed.

        Under its name it is there whole or, if this raises, not at all; what was there before stays until then.

        .. seealso:: https://portkey.ai/docs/api-reference/inference-api/files/retrieve-file-content

        :param file_id: the file's id, plain or percent-encoded
        :param path: a path or URL of Airflow's object storage, such as ``s3://aws_default@bucket/output.jsonl``
        :return: what it holds
        :raises OSError: if the file can't be written; for what else see :meth:`get_batch`
        """
        target = storage_path(path)
        return Download(file_id, str(target), self._receive_file(file_id, partial(written_whole, target)))

    def tally_file(self, file_id: str) -> Tally:
        """Read a file through and say what it holds, without keeping it. See :meth:`download_file`."""
        return self._receive_file(file_id, nullcontext)

    def _receive_file(self, file_id: str, opened: Callable[[], AbstractContextManager[IO[bytes] | None]]) -> Tally:
        def receive(session: requests.Session, request: api.Request, settings: api.Settings) -> Tally:
            tally = Tally()
            with _opened(session, request, settings) as response:
                if not 200 <= response.status_code < 300:
                    raise api.failure(_read(response, request, settings, time.monotonic()), request, settings)
                total = None if response.headers.get("content-encoding") else response.raw.length_remaining
                meter = Meter(self.log, f"Downloading {shorten(file_id)}", total)
                head = b""
                with opened() as file:
                    for chunk in _chunks(response, request, settings):
                        if len(head) < api.MAX_ERROR_BYTES:
                            head += chunk
                        if file is not None:
                            file.write(chunk)
                        tally.add(chunk)
                        meter.add(len(chunk))
                    tally.end_line()
                    if tally.bytes == len(head) or head.startswith(api.WRAPPED_TEXT):
                        api.read_content(_response(response, head), request, settings)
            return tally

        return self._call(partial(api.retrieve_file_content, file_id=file_id), receive)

    @property
    def base_url(self) -> str:
        """The base URL of the connection, ending in ``/v1``."""
        return (self._settings or self._read_connection()).base_url

    def get_conn(self) -> requests.Session:
        """
        Return a session that carries the connection's credentials, for calls that this hook does not have.

        Their addresses begin with :attr:`base_url`. A redirect raises ``requests.TooManyRedirects``, since to
        follow it would carry the key elsewhere. Give each call a ``timeout``, and close the session after use.

        :raises PortkeyInputError: if the connection can't be used
        """
        session = _session(self._settings or self._read_connection())
        session.hooks["response"].append(_refuse_redirect)
        return session

    def test_connection(self) -> tuple[bool, str]:
        """
        Ask Portkey for a list of one batch, with all that the connection gives.

        :return: whether it answered, and who refused what and why if it did not
        """
        try:
            settings = self._read_connection()
            request = api.list_batches(settings, limit=1)
            with _session(settings) as session:
                api.read_page(_send(session, request, settings), request, settings)
        except PortkeyError as error:
            return False, str(error)
        return True, f"{settings.base_url} accepts the key and the provider, and lists batches."

    async def __aenter__(self) -> PortkeyHook:
        self._entered += 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._entered -= 1
        if not self._entered:
            await self._keep(None)

    def _read_connection(self, instead: api.Settings | None = None) -> api.Settings:
        """Look the connection up; use ``instead`` if Airflow does not find it."""
        try:
            self._settings = self._use(self.get_connection(self.portkey_conn_id))
            self._reread = False
            return self._settings
        except Exception as error:  # noqa: BLE001 - a secrets backend may raise anything
            failure = _lookup_error(self.portkey_conn_id, error)
        if instead is not None and not isinstance(failure, PortkeyInputError):
            return instead
        raise failure  # Out here, since what was caught may quote a secret, and would be its context in there.

    async def _alook_up(self, not_before: float, instead: api.Settings | None = None) -> api.Settings:
        """
        Return what a look-up brought that began at ``not_before`` or later; all hooks share one at a time.

        A failure is shared only by those who waited for it.
        """
        asked = time.monotonic()
        # Kept, since it lasts as long as a hook that uses it.
        self._lookup = lookup = _lookup_of(self)
        failure = None
        if lookup.read_at < not_before:
            try:
                async with asyncio.timeout(LOOKUP_TIMEOUT):
                    while lookup.read_at < not_before and lookup.failed_at < asked:
                        if lookup.task is None:
                            lookup.task = asyncio.ensure_future(self._look_up_for(lookup))
                        # Who leaves ends it for none; to break off a talk with Airflow 3.1's supervisor would break
                        # more than that.
                        await asyncio.shield(lookup.task)
                failure = lookup.failure
            except TimeoutError:
                failure = PortkeyTransientError(
                    f"Airflow did not give connection {self.portkey_conn_id!r} within {LOOKUP_TIMEOUT:g} s.",
                    origin="network",
                )
        if lookup.settings is not None and lookup.read_at >= not_before:
            self._settings = lookup.settings
            return lookup.settings
        if instead is not None and not isinstance(failure, PortkeyInputError):
            return instead
        assert failure is not None
        raise copy.copy(failure)  # A copy, since each that is raised collects a traceback and a context.

    async def _look_up_for(self, lookup: _Lookup) -> None:
        began = time.monotonic()
        try:
            found = await self._aread_connection()
        finally:
            lookup.task = None
        if isinstance(found, api.Settings):
            lookup.settings, lookup.read_at = found, began
        else:
            lookup.failure, lookup.failed_at = found, began

    async def _aread_connection(self) -> api.Settings | Exception:
        from airflow.providers.common.compat.connection import get_async_connection
        from asgiref.sync import sync_to_async

        try:
            connection = await get_async_connection(self.portkey_conn_id, hook=self)
            # In a thread: on Airflow 3 both reading and masking may talk to the supervisor.
            return await sync_to_async(self._use)(connection)
        except Exception as error:  # noqa: BLE001 - a secrets backend may raise anything
            return _lookup_error(self.portkey_conn_id, error)

    def _use(self, connection: Connection) -> api.Settings:
        settings = api.Settings.from_connection(
            self.portkey_conn_id,
            host=connection.host,
            port=connection.port,
            schema=connection.schema,
            password=connection.password,
            extra=connection.extra,
        )
        for secret in settings.secrets:
            mask_secret(secret)
        return replace(settings, trusted_since=_changed_at(_ca_path(settings)[1]))

    def _call(self, make: _Make, do: _Do[T], retry_within: float | None = None) -> T:
        """Make a request of the connection's settings and send it; after a refusal with those it has by then."""
        settings = self._settings
        if settings is None or (self._reread and self.may_look_up):
            settings = self._read_connection(instead=settings)
        try:
            return self._attempts(settings, make, do, retry_within)
        except (PortkeyTransientError, PortkeyOutcomeUnknownError):
            self._reread = True
            raise
        except PortkeyRefusedError:
            # Also what was read for this call may be old by now: its attempts may have outlasted an outage.
            known = settings
            if not self.may_look_up or (settings := self._read_connection()) == known:
                raise
        return self._attempts(settings, make, do, retry_within)

    def _attempts(self, settings: api.Settings, make: _Make, do: _Do[T], retry_within: float | None) -> T:
        from tenacity import Retrying

        request = make(settings)
        with _session(settings) as session:
            for attempt in Retrying(**self._retrying(retry_within)):
                with attempt:
                    try:
                        return do(session, request, settings)
                    except PortkeyTransientError as error:
                        failure = api.judge_failure(error, request)
                    raise failure
        raise AssertionError("unreachable: tenacity reraises")

    async def _acall(self, make: _Make, read: _Read[T], retry_within: float | None = None) -> T:
        settings = await self._alook_up(self._not_before, instead=self._settings)
        try:
            return await self._aattempts(settings, make, read, retry_within)
        except PortkeyTransientError:
            self._not_before = time.monotonic()
            raise
        except PortkeyRefusedError:
            known = settings
            if (settings := await self._alook_up(time.monotonic())) == known:
                raise
        return await self._aattempts(settings, make, read, retry_within)

    async def _aattempts(self, settings: api.Settings, make: _Make, read: _Read[T], retry_within: float | None) -> T:
        request = make(settings)
        if self._entered:
            await self._keep(settings)
        async with _shared(settings) as shared:
            from tenacity import AsyncRetrying

            async for attempt in AsyncRetrying(**self._retrying(retry_within)):
                with attempt:
                    return await _asend_in_turn(shared, request, read, retry_within)
        raise AssertionError("unreachable: tenacity reraises")

    async def _keep(self, settings: api.Settings | None) -> None:
        """Hold on to the session for ``settings`` instead of the one held so far."""
        if settings == self._kept_for:
            return
        kept = AsyncExitStack()
        if settings is not None:
            await kept.enter_async_context(_shared(settings))
        kept, self._kept, self._kept_for = self._kept, kept, settings
        await kept.aclose()

    def _retrying(self, within: float | None) -> dict[str, Any]:
        from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, stop_any, stop_before_delay

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return api.pause(state.attempt_number, error, random.random())

        def before_sleep(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            self.log.debug("Attempt %d of %d failed: %s", state.attempt_number, api.ATTEMPTS, error)

        return {
            "stop": stop_any(
                stop_after_attempt(api.ATTEMPTS), stop_before_delay(math.inf if within is None else within)
            ),
            "wait": wait,
            "retry": retry_if_exception(api.is_worth_another_attempt),
            "before_sleep": before_sleep,
            "reraise": True,
        }


def _lookup_error(conn_id: str, error: Exception) -> Exception:
    """Tell a connection that can't be used, a mistake, from one that can't be looked up just now."""
    if isinstance(error, PortkeyInputError):
        return error
    if isinstance(error, AirflowNotFoundException):
        return PortkeyConnectionNotFoundError(
            f"Airflow found no connection {conn_id!r}, here and now: {error}. Is it defined for workers and triggerer "
            "alike, and does the secrets backend answer?"
        )
    if isinstance(error, (AirflowException, ValueError)):
        # Its text may quote the connection, password included.
        return PortkeyInputError(
            f"Airflow can't read connection {conn_id!r} ({type(error).__name__}): check how it is defined."
        )
    return PortkeyTransientError(
        f"Airflow did not get connection {conn_id!r}: {type(error).__name__}: {error}", origin="network"
    )


def _session(settings: api.Settings) -> requests.Session:
    import requests

    session = requests.Session()
    # What the environment says of proxies and CAs is in `_proxy` and `_ca_file`, for both HTTP libraries alike;
    # what else it says, a .netrc for the host, would put another credential in the place of ours.
    session.trust_env = False
    session.headers.update(settings.headers)
    # A redirect is an answer like any other: to follow it would carry the key to wherever it points.
    session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
    session.verify = settings.verify if settings.verify is False else _ca_file(settings)
    if proxy := _proxy(settings):
        session.proxies = {"http": proxy, "https": proxy}
    return session


def _refuse_redirect(response: requests.Response, **kwargs: Any) -> None:
    import requests

    if response.is_redirect:
        raise requests.TooManyRedirects("Portkey answered with a redirect, which is not followed", response=response)


class _Part:
    """A file of known size in a form that is sent, as ``requests_toolbelt`` wants it."""

    def __init__(self, file: IO[bytes], size: int, meter: Meter) -> None:
        self._file = file
        self._meter = meter
        #: How many bytes are left.
        self.len = size
        #: What reading it raised, which HTTP libraries would take for a fault of the network.
        self.failure: OSError | None = None

    def read(self, size: int) -> bytes:
        try:
            # What was appended since then is not part of it.
            data = self._file.read(min(size, self.len))
            if not data:
                raise OSError(f"The file was cut short while it was uploaded: its last {self.len} bytes are missing")
        except OSError as error:
            self.failure = error
            raise
        self.len -= len(data)
        self._meter.add(len(data))
        return data


@contextmanager
def _opened(
    session: requests.Session,
    request: api.Request,
    settings: api.Settings,
    data: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[requests.Response]:
    """Send a request and give its answer, the body not read yet. ``data`` is a body to stream."""
    import requests

    # urllib3 bounds by it not only the connecting, but each write of a body too.
    connect_timeout = settings.connect_timeout if data is None else settings.timeout
    if request.body is not None:
        data, headers = request.body, {"Content-Type": "application/json"}
    failure = None
    try:
        response = session.request(
            request.method,
            request.url,
            data=data,
            headers=headers,
            stream=True,
            allow_redirects=False,
            timeout=(connect_timeout, settings.timeout),
        )
    except (requests.RequestException, OSError) as error:
        failure = api.no_answer(error, request, settings, was_sent=_was_sent(error))
    if failure:
        raise failure  # As in `_read_connection`.
    with response:
        yield response


def _was_sent(error: Exception) -> bool:
    """Whether any of a request that failed may have arrived."""
    import ssl

    import requests
    import urllib3

    if isinstance(error, requests.ConnectTimeout):
        return False
    reason = getattr(error.args[0], "reason", None) if error.args else None  # urllib3's MaxRetryError has it
    if isinstance(reason, urllib3.exceptions.ProxyError):
        # It also stands for a proxy that closes after it was sent all.
        reason = reason.original_error
    refused = isinstance(reason, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError))
    refused = refused or str(reason).startswith("Tunnel connection failed")
    distrusted = isinstance(reason, urllib3.exceptions.SSLError) and any(
        isinstance(arg, ssl.SSLCertVerificationError) for arg in reason.args
    )
    return not refused and not distrusted


def _chunks(response: requests.Response, request: api.Request, settings: api.Settings) -> Iterator[bytes]:
    import urllib3

    try:
        # read1 returns what is there: a body that trickles can't hold the call beyond its limit.
        while chunk := response.raw.read1(2**16, decode_content=True):
            yield chunk
        return
    except (urllib3.exceptions.HTTPError, OSError) as error:
        failure = api.no_answer(error, request, settings)
    raise failure


def _read(response: requests.Response, request: api.Request, settings: api.Settings, began: float) -> api.Response:
    """Read the body of an answer of Portkey's API, which is small and has to be there in time."""
    deadline = began + settings.timeout
    body = bytearray()
    for chunk in _chunks(response, request, settings):
        body += chunk
        if len(body) > api.MAX_ANSWER_BYTES:
            raise api.too_large(request)
        if time.monotonic() > deadline:
            late = TimeoutError(f"the body was not complete after {settings.timeout:g} s")
            raise api.no_answer(late, request, settings)
    return _response(response, bytes(body))


def _response(response: requests.Response, body: bytes) -> api.Response:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return api.Response(response.status_code, headers, body)


def _send(
    session: requests.Session,
    request: api.Request,
    settings: api.Settings,
    data: Any = None,
    headers: Mapping[str, str] | None = None,
) -> api.Response:
    began = time.monotonic()
    with _opened(session, request, settings, data, headers) as response:
        # To stream a body may take longer than any answer.
        return _read(response, request, settings, began if data is None else time.monotonic())


def _sending(read: _Read[T]) -> _Do[T]:
    return lambda session, request, settings: read(_send(session, request, settings), request, settings)


class _Lookup:
    """What the last look-ups of a connection on an event loop brought."""

    def __init__(self) -> None:
        self.task: asyncio.Future[None] | None = None
        self.settings: api.Settings | None = None
        self.failure: Exception | None = None
        # When what brought them began.
        self.read_at = self.failed_at = -math.inf


_Lookups = WeakValueDictionary[tuple[type[PortkeyHook], str], _Lookup]
_lookups: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lookups] = WeakKeyDictionary()


def _lookup_of(hook: PortkeyHook) -> _Lookup:
    loop = asyncio.get_running_loop()
    lookups = _lookups.get(loop)
    if lookups is None:
        lookups = _lookups[loop] = WeakValueDictionary()
    key = (type(hook), hook.portkey_conn_id)  # a subclass may look up otherwise
    lookup = lookups.get(key)
    if lookup is None:
        lookup = lookups[key] = _Lookup()
    return lookup


class _Shared:
    """What all who use equal settings on an event loop have in common."""

    def __init__(self, settings: api.Settings) -> None:
        self.settings = settings
        self.users = 0
        # A queue for the connector's slots would be part of each request's time limit; one of our own is not.
        self.slots = asyncio.Semaphore(settings.max_connections)
        self.opening = asyncio.Lock()
        self.session: aiohttp.ClientSession | None = None
        self.options: dict[str, Any] = {}
        self.held_until = -math.inf
        self.held_by: PortkeyTransientError | None = None

    async def open(self) -> None:
        async with self.opening:
            if self.session is None:
                # In a thread: importing the libraries and reading CA certificates would stall the loop.
                self.options, ssl_context = await asyncio.to_thread(_prepare, self.settings)
                self.session = _open(self.settings, ssl_context)

    async def take_turn(self, within: float | None) -> bool:
        """Wait for a turn to send, at most ``within`` seconds; whether there is one, to be given back."""
        if within == 0:
            return False
        if within in (None, math.inf) or not self.slots.locked():
            return await self.slots.acquire()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                return await self.slots.acquire()
        return False


_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[api.Settings, _Shared]] = WeakKeyDictionary()


@asynccontextmanager
async def _shared(settings: api.Settings) -> AsyncIterator[_Shared]:
    """Give the session of all who use ``settings`` on this event loop; the last to leave closes it."""
    sessions = _sessions.setdefault(asyncio.get_running_loop(), {})
    shared = sessions.get(settings)
    if shared is None:
        shared = sessions[settings] = _Shared(settings)
    shared.users += 1
    try:
        if shared.session is None:
            await shared.open()
        yield shared
    finally:
        shared.users -= 1
        if not shared.users:
            del sessions[settings]
            if shared.session is not None:
                await shared.session.close()


def _prepare(settings: api.Settings) -> tuple[dict[str, Any], ssl.SSLContext | bool]:
    """Return the options of each request, and how to check certificates. Imports what sending them needs."""
    import aiohttp  # noqa: F401
    import tenacity  # noqa: F401
    from yarl import URL

    # For each request and not for the session, whose headers aiohttp would show to a proxy too.
    options: dict[str, Any] = {"headers": settings.headers, "allow_redirects": False}
    if proxy := _proxy(settings):
        url = URL(proxy)
        options["proxy"] = url.with_user(None)
        if url.user:
            credentials = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
            # A tunnel for https has headers of its own; a plain request carries the proxy's among its own.
            kind = "proxy_headers" if settings.base_url.startswith("https:") else "headers"
            options[kind] = {**dict(options.get(kind, ())), "proxy-authorization": f"Basic {credentials}"}
    return options, settings.verify is not False and _trust(settings)


def _open(settings: api.Settings, ssl_context: ssl.SSLContext | bool) -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.max_connections, ssl=ssl_context),
        timeout=aiohttp.ClientTimeout(total=settings.timeout, sock_connect=settings.connect_timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        # aiohttp would call an empty body an octet-stream, which Portkey refuses.
        skip_auto_headers=["Content-Type"],
        trust_env=False,
    )


async def _asend_in_turn(shared: _Shared, request: api.Request, read: _Read[T], within: float | None) -> T:
    # A cancel is asked for once: it neither queues behind looks nor is held back by what one of them was told.
    has_turn = request.method == "GET" and await shared.take_turn(within)
    try:
        # When its time is up, the last look of a wait is not for others to forbid: it may find the end.
        if has_turn and shared.held_by and (left := shared.held_until - time.monotonic()) > 0:
            raise api.held_back(shared.held_by, request, left)
        response = await _asend(shared, request)
    finally:
        if has_turn:
            shared.slots.release()
    try:
        return read(response, request, shared.settings)
    except PortkeyTransientError as error:
        until = time.monotonic() + (error.retry_after or 0)
        # Of other statuses one batch alone may be the cause.
        if error.status_code in (429, 503) and until > max(shared.held_until, time.monotonic()):
            shared.held_until, shared.held_by = until, copy.copy(error)
        raise


async def _asend(shared: _Shared, request: api.Request) -> api.Response:
    import aiohttp
    from yarl import URL

    assert shared.session is not None
    body = bytearray()
    try:
        async with shared.session.request(request.method, URL(request.url, encoded=True), **shared.options) as response:
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > api.MAX_ANSWER_BYTES:
                    raise api.too_large(request)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return api.Response(response.status, headers, bytes(body))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        failure = api.no_answer(error, request, shared.settings)
    raise failure  # As in `_read_connection`.


def _ca_path(settings: api.Settings) -> tuple[str, str]:
    """Return who names the file or folder of CA certificates, and what: the connection, the environment or certifi."""
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    if isinstance(settings.verify, str):
        return "verify in the connection's extra", settings.verify
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if path := os.environ.get(name):
            return name, path
    return "certifi", DEFAULT_CA_BUNDLE_PATH


def _changed_at(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0


def _trust(settings: api.Settings) -> ssl.SSLContext:
    import ssl

    name, path = _ca_path(settings)
    try:
        if Path(path).is_dir():
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl's own among them
        raise PortkeyInputError(
            f"Connection {settings.conn_id!r}: {name} names {path!r}, and there is no such file or folder of "
            f"CA certificates here ({error})."
        ) from None


def _ca_file(settings: api.Settings) -> str:
    """Return the file or folder of CA certificates; one that was named is read first, to see that it can be."""
    name, path = _ca_path(settings)
    if name != "certifi":
        _trust(settings)
    return path


def _proxy(settings: api.Settings) -> str | None:
    """Return the proxy's URL: the connection's, or the environment's unless ``NO_PROXY`` excepts the host."""
    from requests.utils import get_environ_proxies, select_proxy

    where = "proxy in the connection's extra"
    proxy: str | None = settings.proxy
    if proxy is None:
        where = "the environment"
        proxy = select_proxy(settings.base_url, get_environ_proxies(settings.base_url))
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return proxy
    except ValueError:
        pass
    raise PortkeyInputError(
        f"Connection {settings.conn_id!r}: {where} names a {proxy.partition(':')[0]} proxy that can't be used: only "
        "http and https URLs can, such as http://proxy.example.com:3128. NO_PROXY excepts hosts from the environment's."
    )
