"""Files and servers that misbehave during an upload."""

from __future__ import annotations

import io
import socket
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import IO, Any

from tests.server.standin import HOST


class ChangedFile:
    """A file whose size is ``size`` when it is asked for, and whose content is ``content`` when it is read."""

    name = "requests.jsonl"

    def __init__(self, size: int, content: IO[bytes]) -> None:
        self._size = size
        self._content = content
        self.opened = 0

    def stat(self) -> Any:
        return SimpleNamespace(st_size=self._size)

    def open(self, mode: str) -> IO[bytes]:
        self.opened += 1
        self._content.seek(0)
        return nullcontext(self._content)  # type: ignore[return-value]


class ExpiredStore(io.BytesIO):
    """Content that can be read only up to 200 kB."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 200_000:
            raise PermissionError("the store's token has expired")
        return super().read(size)


class SlowStore(io.BytesIO):
    """Content of which each 100 kB take 0.1 s."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if (self.tell() - len(data)) // 100_000 != self.tell() // 100_000:
            time.sleep(0.1)
        return data


class EarlyResponder:
    """
    A server that responds as soon as it has received ``received`` bytes of a request's body, and hangs up.

    With ``lingers`` it reads the rest of the body first, as nginx does, so that the response is not lost.
    """

    def __init__(self, response: bytes, received: int, *, lingers: bool) -> None:
        self._response = response
        self._received = received
        self._lingers = lingers
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def __enter__(self) -> EarlyResponder:
        self._socket = socket.create_server((HOST, 0))
        self._port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with client, client.makefile("rb") as request:
                while request.readline() not in (b"\r\n", b""):
                    pass
                request.read(self._received)
                client.sendall(self._response)
                if self._lingers:
                    client.shutdown(socket.SHUT_WR)
                    while request.read(65_536):
                        pass
