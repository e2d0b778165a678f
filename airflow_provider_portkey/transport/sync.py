"""One request with ``requests``, on a worker. HTTP libraries are imported on use: DAG parsing must not pay for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar

from airflow_provider_portkey.failures import network_error, response_too_large
from airflow_provider_portkey.http import MAX_RESPONSE_BYTES, Decompressor, Request, Response
from airflow_provider_portkey.settings import Settings
from airflow_provider_portkey.transport.environment import ca_file, proxy_url

if TYPE_CHECKING:
    import requests

    from airflow_provider_portkey.files import ProgressLogger

T = TypeVar("T")
#: Sends a request and reads its response.
Send: TypeAlias = "Callable[[requests.Session, Request, Settings], T]"


def open_session(settings: Settings) -> requests.Session:
    """Return a session with the connection's credentials, proxy and CA certificates; the caller closes it."""
    import requests

    session = requests.Session()
    # `proxy_url` and `ca_file` read the environment for both HTTP libraries. A .netrc for the host, which requests
    # reads too, would replace our credential with another one.
    session.trust_env = False
    session.headers.update(settings.headers)
    # A redirect is a response like any other: following it would send the API key to another address.
    session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
    session.verify = settings.verify if settings.verify is False else ca_file(settings)
    if proxy := proxy_url(settings):
        session.proxies = {"http": proxy, "https": proxy}
    return session


def refuse_redirect(response: requests.Response, **kwargs: Any) -> None:
    """Raise ``requests.TooManyRedirects`` for a redirect: a response hook for sessions that users get."""
    import requests

    if response.is_redirect:
        raise requests.TooManyRedirects("Portkey responded with a redirect, which is not followed", response=response)


def send_and_read(read: Callable[[Response, Request, Settings], T]) -> Send[T]:
    """Return what sends a request and reads its response with ``read``."""
    return lambda session, request, settings: read(send(session, request, settings), request, settings)


def send(
    session: requests.Session,
    request: Request,
    settings: Settings,
    data: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send a request and return its response. ``data`` is a body to stream, with its ``headers``."""
    began = time.monotonic()
    with open_response(session, request, settings, data, headers) as response:
        # An upload may take longer than the timeout, which then starts with its response.
        return read_response_body(response, request, settings, began if data is None else time.monotonic())


@contextmanager
def open_response(
    session: requests.Session,
    request: Request,
    settings: Settings,
    data: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[requests.Response]:
    """Send a request and yield its response, the body not read yet. See :func:`send`."""
    import requests

    # urllib3 applies the connect timeout to each write of a body too, so an upload gets the long one.
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
            timeout=(connect_timeout, max(settings.timeout, request.slow)),
        )
    except (requests.RequestException, OSError) as error:
        failure = network_error(error, request, settings, was_sent=_was_sent(error))
    if failure:
        raise failure  # Outside the handler: the original error may quote a secret, and would be its context in there.
    with response:
        yield response


def read_chunks(response: requests.Response, request: Request, settings: Settings) -> Iterator[bytes]:
    """Yield a response's body in pieces as they arrive, decompressed."""
    import urllib3

    try:
        decompressor = Decompressor(response.headers.get("content-encoding"))
        # read1 returns what has arrived: a body that trickles cannot hold the call beyond its time limit.
        while chunk := response.raw.read1(2**16, decode_content=False):
            yield from decompressor.feed(chunk)
        decompressor.finish()
        return
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        failure = network_error(error, request, settings)
    raise failure  # As in `open_response`.


def read_response_body(response: requests.Response, request: Request, settings: Settings, began: float) -> Response:
    """
    Read the body of a response of Portkey's API, which is small and must arrive in time.

    :param began: when the time limit began, on the monotonic clock
    """
    deadline = began + settings.timeout
    body = bytearray()
    for chunk in read_chunks(response, request, settings):
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise response_too_large(request, settings)
        if time.monotonic() > deadline:
            late = TimeoutError(f"timed out: the body was not complete after {settings.timeout:g} s")
            raise network_error(late, request, settings)
    return as_response(response, bytes(body))


def as_response(response: requests.Response, body: bytes) -> Response:
    """Return a response of ``requests`` as plain data."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(response.status_code, headers, body)


def _was_sent(error: Exception) -> bool:
    """Whether any of a request that failed may have arrived."""
    import ssl

    import requests
    import urllib3

    if isinstance(error, requests.ConnectTimeout):
        return False
    reason = getattr(error.args[0], "reason", None) if error.args else None  # of urllib3's MaxRetryError
    if isinstance(reason, urllib3.exceptions.ProxyError):
        # This also stands for a proxy that closed the connection after it had received everything.
        reason = reason.original_error
    refused = isinstance(reason, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError))
    refused = refused or str(reason).startswith("Tunnel connection failed")
    distrusted = isinstance(reason, urllib3.exceptions.SSLError) and any(
        isinstance(arg, ssl.SSLCertVerificationError) for arg in reason.args
    )
    return not refused and not distrusted


class FilePart:
    """A file of known size in a form that is uploaded, as ``requests_toolbelt`` reads it."""

    def __init__(self, file: IO[bytes], size: int, progress: ProgressLogger) -> None:
        self._file = file
        self._progress = progress
        #: How many bytes are left.
        self.len = size
        #: What reading the file raised, which HTTP libraries would report as a network error.
        self.failure: OSError | None = None

    def read(self, size: int) -> bytes:
        """Read at most ``size`` bytes. What was appended to the file since the upload began is not part of it."""
        try:
            data = self._file.read(min(size, self.len))
            if not data:
                raise OSError(f"The file was truncated during its upload: its last {self.len} bytes are missing")
        except OSError as error:
            self.failure = error
            raise
        self.len -= len(data)
        self._progress.add(len(data))
        return data
