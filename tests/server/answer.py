"""One HTTP response as data, and how it is sent: whole, or broken in some way."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from aiohttp import web
from multidict import CIMultiDict

from tests.server.batches import Lines

_BLANKS = b" " * 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Answer:
    """A response, and how it is sent.

    ``how`` is one of these:

    - ``plain``: whole
    - ``reset``: the connection is reset before any response, with ``after_bytes`` once that much of the request's
      body was read
    - ``truncate``: the connection is reset after half of the body, with ``after_bytes`` after that much of it
    - ``trickle``: a byte of the body every ``pause`` seconds
    - ``flood``: ``size`` bytes of blanks follow the body. They are made as they are sent, so a terabyte needs no memory
    - ``raw``: the body is all that is sent, then the connection is closed; it need not be HTTP
    - ``drip``: the same, a byte every ``pause`` seconds

    It is sent after ``delay`` seconds.
    """

    status: int = 200
    #: None is an empty body, or in a fault the body of the real response: see `StandIn.fail`.
    body: Mapping[str, object] | str | bytes | Lines | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    how: Literal["plain", "reset", "truncate", "trickle", "flood", "raw", "drip"] = "plain"
    pause: float = 0.05
    size: int = 1 << 40
    after_bytes: int | None = None

    @property
    def spoils(self) -> bool:
        """Whether, as a fault, it keeps the real response and changes only how that is sent."""
        return self.body is None and self.status == 200 and self.how not in ("reset", "raw", "drip")

    def encoded(self) -> tuple[bytes | Lines, CIMultiDict[str]]:
        """Return the body's bytes, and the headers. The content type is the body's unless the headers have one."""
        data: bytes | Lines
        if self.body is None or isinstance(self.body, bytes | Lines):
            data, content_type = self.body or b"", "application/octet-stream"
        elif isinstance(self.body, str):
            data, content_type = self.body.encode(), "text/plain; charset=utf-8"
        else:
            data, content_type = json.dumps(self.body).encode(), "application/json"
        headers = CIMultiDict({"Content-Type": content_type})
        headers.update(self.headers)
        return data, headers


#: An answer as a test scripts it: a status, members of a batch in progress, or a whole response.
Scripted: TypeAlias = str | Mapping[str, object] | Answer


def reset(request: web.BaseRequest) -> None:
    """Reset the connection. A plain close would look like an orderly end."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        request.transport.abort()


async def send(request: web.BaseRequest, answer: Answer, count_flooded: Callable[[int], None]) -> web.StreamResponse:
    """Send an answer as it says. ``count_flooded`` gets the size of each piece of a flood."""
    await asyncio.sleep(answer.delay)
    data, headers = answer.encoded()
    if answer.how == "plain" and isinstance(data, bytes):
        return web.Response(status=answer.status, body=data, headers=headers)
    response = web.StreamResponse(status=answer.status, headers=headers)
    if answer.how == "reset":
        reset(request)
        return response
    pieces, length = (iter([data]), len(data)) if isinstance(data, bytes) else (data.pieces(), data.size)
    if answer.how in ("raw", "drip"):
        await _send_raw(request, b"".join(pieces), answer.pause if answer.how == "drip" else 0)
        return response
    if answer.how != "flood":
        response.content_length = length
    # A client may close the connection during any of these.
    with suppress(ConnectionError):
        await response.prepare(request)
        if answer.how == "truncate":
            left = answer.after_bytes
            if left is None:
                left = (len(data) if isinstance(data, bytes) else data.total()) // 2
            for piece in pieces:
                await response.write(piece[:left])
                left -= len(piece)
                if left <= 0:
                    break
            reset(request)
        elif answer.how == "trickle":
            for byte in (piece[n : n + 1] for piece in pieces for n in range(len(piece))):
                await response.write(byte)
                await asyncio.sleep(answer.pause)
        else:
            for piece in pieces:
                await response.write(piece)
            for sent in range(0, answer.size if answer.how == "flood" else 0, len(_BLANKS)):
                await response.write(_BLANKS[: answer.size - sent])
                count_flooded(len(_BLANKS))
    return response


async def _send_raw(request: web.BaseRequest, data: bytes, pause: float) -> None:
    transport = request.transport
    step = 1 if pause else len(data) or 1
    for position in range(0, len(data), step):
        if transport is None or transport.is_closing():
            return
        transport.write(data[position : position + step])
        await asyncio.sleep(pause)
    if transport is not None:
        transport.close()
