"""One HTTP exchange as plain data: the request before it is sent, and the response after it was received."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

#: A batch is some kilobytes. A larger body is rejected before it fills a triggerer's memory.
MAX_RESPONSE_BYTES = 8 * 2**20
#: The compressions that are asked for, and that :class:`Decompressor` reads.
ACCEPT_ENCODING = "gzip, deflate"


@dataclass(frozen=True)
class Request:
    """
    One call, ready to be sent as it is.

    :param method: the HTTP method
    :param url: the whole URL, percent-encoded
    :param subject: what the call does, as error messages name it: ``retrieving batch 'b' (connection 'c')``
    :param argument: the argument whose id is in the URL, ``None`` if there is none
    :param body: JSON to send, ``None`` for no body
    :param repeatable: whether sending it twice is harmless
    :param slow: seconds that the first byte of its response may take, where that is longer than other calls take
    """

    method: Literal["GET", "POST"]
    url: str
    subject: str
    argument: Literal["batch_id", "file_id"] | None = None
    body: bytes | None = None
    repeatable: bool = True
    slow: float = 0.0


@dataclass(frozen=True)
class Response:
    """
    What came back.

    :param status: the HTTP status
    :param headers: their names in lower case
    :param body: decompressed
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Decompressor:
    """
    Decompresses a body in pieces of at most 64 KiB, so that whoever reads it can stop at a limit.

    Older versions of the HTTP libraries decompress all that arrived at once, which may grow a thousandfold.

    :param encoding: the response's ``Content-Encoding``
    :raises ValueError: if that is not in :data:`ACCEPT_ENCODING`; each method raises it for a damaged body
    """

    def __init__(self, encoding: str | None) -> None:
        encoding = (encoding or "identity").strip().lower()
        if encoding not in ("identity", *ACCEPT_ENCODING.split(", ")):
            raise ValueError(f"the body has Content-Encoding {encoding!r}, and only {ACCEPT_ENCODING} can be read")
        self._stream = None if encoding == "identity" else _new_stream()
        self._is_empty = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a piece of the body holds, decompressed."""
        self._is_empty = self._is_empty and not chunk
        if self._stream is None:
            yield chunk
            return
        while True:
            if self._stream.eof and chunk:  # gzip allows several streams after one another
                self._stream = _new_stream()
            try:
                piece = self._stream.decompress(chunk, 2**16)
            except zlib.error as error:
                raise ValueError(f"the body is damaged: {error}") from None
            chunk = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if piece:
                yield piece
            elif not chunk:
                return

    def finish(self) -> None:
        """Check that the body was whole."""
        if self._stream is not None and not self._stream.eof and not self._is_empty:
            raise ValueError("the compressed body was cut short")


def _new_stream() -> zlib._Decompress:
    return zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # recognizes gzip and zlib, which HTTP calls deflate
