"""Every status word of every provider, read from a batch."""

from __future__ import annotations

import re

import pytest

from airflow_provider_portkey.batch import Batch
from tests.support.status_words import STATUS_WORDS

WORDS = {
    f"{provider}: {word!r} means {status}": (word, status)
    for provider, words in STATUS_WORDS.items()
    for word, status in words.items()
}


def snake_case(word: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[ -]", "_", word.strip()).lower()


@pytest.mark.parametrize(("word", "status"), WORDS.values(), ids=WORDS)
def test_a_status_word_is_read(word: str, status: str) -> None:
    batch = Batch.from_dict({"id": "batch_1", "status": word})
    assert (batch.status, batch.provider_status, batch.status_is_known) == (status, snake_case(word), True)
    assert Batch.from_dict(batch.to_dict()) == batch
