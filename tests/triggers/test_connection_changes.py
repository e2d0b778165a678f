"""After a failed call, the connection and its CA certificates are read again: on a worker and in the triggerer."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from airflow_provider_portkey.exceptions import PortkeyTransientError
from airflow_provider_portkey.hooks.portkey import PortkeyHook
from tests.server.standin import StandIn
from tests.support.connections import set_connection
from tests.support.stacks import STACKS

pytestmark = [pytest.mark.usefixtures("connection"), pytest.mark.parametrize("stack", STACKS)]


@pytest.fixture
def status(stack: str) -> Iterator[Callable[[], str]]:
    """Return a function that polls batch_1 once, with the same hook each time, and returns its status."""
    hook, loop = PortkeyHook(), asyncio.new_event_loop()
    if stack == "requests":
        yield lambda: hook.get_batch("batch_1", retry_within=0).status
    else:
        loop.run_until_complete(hook.__aenter__())  # It keeps its session, as a wait does.
        yield lambda: loop.run_until_complete(hook.aget_batch("batch_1", retry_within=0)).status
        loop.run_until_complete(hook.__aexit__())
    loop.close()


def test_a_new_host_is_used_after_a_failure_and_not_before(
    status: Callable[[], str], standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.script("batch_1", "in_progress")
    with StandIn() as elsewhere:
        elsewhere.script("batch_1", "completed")
        assert status() == "in_progress"
        extra = {"virtual_key": standin.virtual_key}
        set_connection(monkeypatch, host=elsewhere.url, password=standin.api_key, extra=extra)
        assert status() == "in_progress"
        with standin.outage():
            with pytest.raises(PortkeyTransientError):
                status()
            assert status() == "completed"


def test_a_connection_that_airflow_cannot_find_during_an_outage_stays_in_use(
    status: Callable[[], str], standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker without a network reaches neither Portkey nor, often, its secrets backend."""
    standin.script("batch_1", "in_progress")
    assert status() == "in_progress"
    with standin.outage():
        monkeypatch.delenv("AIRFLOW_CONN_PORTKEY_DEFAULT")
        for _ in range(3):
            with pytest.raises(PortkeyTransientError, match="No response while retrieving batch"):
                status()
    assert status() == "in_progress"


def test_replaced_ca_certificates_are_read_again(
    status: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ca.pem"
    port = 0
    for number, ca in enumerate([trustme.CA(), trustme.CA()]):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert("127.0.0.1").configure_cert(context)
        with StandIn(port=port, ssl_context=context) as server:
            port = server.port
            server.script("batch_1", "in_progress")
            extra = {"virtual_key": server.virtual_key, "verify": str(file)}
            set_connection(monkeypatch, host=server.url, password=server.api_key, extra=extra)
            if number:
                with pytest.raises(PortkeyTransientError, match="private CA"):
                    status()
            ca.cert_pem.write_to_path(str(file))
            os.utime(file, (number, number))
            assert status() == "in_progress"
