"""Our exceptions cross process boundaries, as Airflow's executors let them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from airflow_provider_portkey import exceptions
from airflow_provider_portkey.batch import Batch, BatchStatus
from airflow_provider_portkey.exceptions import PortkeyApiError, PortkeyError

ERRORS = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, PortkeyError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_an_exception_survives_pickle_and_copy(kind: type[PortkeyError]) -> None:
    details: dict[str, Any] = {}
    if issubclass(kind, PortkeyApiError):
        details = {"status_code": 429, "origin": "provider", "retry_after": 7.0}
        details |= {"is_foreign": True, "response_text": "slow down"}
        details |= {"was_sent": False} if kind is exceptions.PortkeyTransientError else {}
    elif issubclass(kind, exceptions.PortkeyBatchEndedError):
        details = {"batch": Batch("b", BatchStatus.EXPIRED, metadata={"a": "b"})}
    error = kind("what happened", **details)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):  # noqa: S301
        assert (type(twin), str(twin), vars(twin)) == (kind, "what happened", details)
