"""One HTTP exchange as plain data: the request before it is sent, and the response after it was received."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: A batch is some kilobytes. A larger body is rejected before it fills a triggerer's memory.
MAX_RESPONSE_BYTES = 8 * 2**20


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
