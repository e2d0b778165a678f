"""A secrets backend's own words may quote anything: they reach no error."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException

from airflow_provider_portkey.exceptions import PortkeyError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from tests.support.stacks import STACKS, Stack

WORDS = "vault token s.0123456789abcdef"


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError(WORDS),
        OSError(WORDS),
        ValueError(WORDS),
        AirflowException(WORDS),
        AirflowNotFoundException(WORDS),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_the_words_of_a_secrets_backend_are_not_in_the_error(
    failure: Exception, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise failure

    async def afail(*args: Any, **kwargs: Any) -> Any:
        raise failure

    monkeypatch.setattr(PortkeyHook, "get_connection", classmethod(fail))
    monkeypatch.setattr("airflow.providers.common.compat.connection.get_async_connection", afail)

    def poll() -> object:
        hook = PortkeyHook()
        return hook.get_batch("batch_1") if stack == "requests" else asyncio.run(hook.aget_batch("batch_1"))

    with pytest.raises(PortkeyError) as caught:
        poll()
    assert WORDS not in "".join(traceback.format_exception(caught.value))
    if type(failure) in (RuntimeError, OSError):
        assert str(caught.value).splitlines()[1:] == [type(failure).__name__]
