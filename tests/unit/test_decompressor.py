"""What a compressed body holds, in pieces of bounded size, whatever HTTP library received it."""

from __future__ import annotations

import gzip
import zlib

import pytest

from airflow_provider_portkey.http import Decompressor

TEXT = b'{"custom_id": "1"}\n' * 1_000
BODIES = {
    "not compressed": (None, TEXT),
    "identity": ("identity", TEXT),
    "gzip": ("gzip", gzip.compress(TEXT)),
    "GZIP in capitals": ("GZIP", gzip.compress(TEXT)),
    "deflate": ("deflate", zlib.compress(TEXT)),
    "two gzip streams": ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
}
DAMAGED = {
    "text that is not compressed": ("gzip", b"plain", "the body is damaged: "),
    "cut short": ("gzip", gzip.compress(TEXT)[:-1], "the compressed body was cut short"),
    "an encoding that was not asked for": ("br", b"", "Content-Encoding 'br', and only gzip, deflate can be read"),
}


def decompress(encoding: str | None, body: bytes, size: int) -> bytes:
    decompressor = Decompressor(encoding)
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    pieces = [piece for chunk in chunks for piece in decompressor.feed(chunk)]
    decompressor.finish()
    return b"".join(pieces)


@pytest.mark.parametrize("size", [1, 7, 2**20])
@pytest.mark.parametrize(("encoding", "body"), BODIES.values(), ids=BODIES)
def test_a_body_is_decompressed_however_it_arrives(encoding: str | None, body: bytes, size: int) -> None:
    assert decompress(encoding, body, size) == TEXT


@pytest.mark.parametrize(("encoding", "body", "problem"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_body_is_refused(encoding: str, body: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        decompress(encoding, body, 2**20)


def test_an_empty_body_is_empty_whatever_its_header_says() -> None:
    assert decompress("gzip", b"", 1) == b""


def test_no_piece_of_a_body_that_grows_a_thousandfold_has_more_than_64_kib() -> None:
    pieces = list(Decompressor("gzip").feed(gzip.compress(bytes(2**24))))
    assert sum(map(len, pieces)) == 2**24
    assert max(map(len, pieces)) <= 2**16
