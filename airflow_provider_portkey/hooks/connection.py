"""
Reading an Airflow connection, on workers and on a triggerer's event loop.

How shared lookups work. Looking up a connection costs a triggerer a call to Airflow's API server or to a secrets
backend. So all hooks of one connection on an event loop share a :class:`_Lookup`: its task reads the connection, and
everybody who needs it at that moment waits for that task.

- A caller says how old a result may be, counted from the start of its lookup (``not_before``). A newer result is used
  without a lookup.
- A failure is shared only by callers that asked before the lookup began. One that joined later starts another lookup.
- A waiter that is cancelled leaves the task running, since others wait for it too (``asyncio.shield``). Cancelling it
  would do more harm: Airflow 3.1 matches responses of its supervisor to requests by their order, so that after an
  aborted request the next one would get the wrong response.
- A lookup lives as long as a hook that uses it (weak references).
"""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException, BaseHook, mask_secret

from airflow_provider_portkey.batch import as_text
from airflow_provider_portkey.exceptions import (
    PortkeyConnectionNotFoundError,
    PortkeyInputError,
    PortkeyTransientError,
)
from airflow_provider_portkey.settings import Settings, task_headers
from airflow_provider_portkey.text import message
from airflow_provider_portkey.transport.environment import ca_changed_at

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

#: How many seconds old a lookup may be for a hook that begins to use its result on an event loop.
MAX_LOOKUP_AGE = 60.0
#: How many seconds a call waits for a lookup on an event loop.
LOOKUP_TIMEOUT = 60.0


class ConnectionHook(BaseHook):
    """
    Reads an Airflow connection of type ``portkey``, masks its secrets, and notices when it has changed.

    :param portkey_conn_id: the id of the Airflow connection
    :param headers: headers to send in addition to the connection's, or instead of those of the same names
    :raises PortkeyInputError: if ``headers`` are invalid, or have a credential
    """

    def __init__(self, portkey_conn_id: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.portkey_conn_id = as_text(portkey_conn_id)
        self._shown_id = self.portkey_conn_id
        self._headers = task_headers(headers)
        #: Whether Airflow may be asked for the connection once it is known. Not in a signal handler: on Airflow 3 the
        #: code that the signal interrupted may be asking it something, and holds its lock.
        self.may_look_up = True
        self._settings: Settings | None = None
        # On an event loop: the results of lookups that began before this are too old.
        self._not_before = time.monotonic() - MAX_LOOKUP_AGE
        self._lookup: _Lookup | None = None

    def _read_connection(self, fallback: Settings | None = None) -> Settings:
        """
        Look the connection up.

        :param fallback: what to use if Airflow does not find it
        """
        try:
            settings = self._read(self.get_connection(self.portkey_conn_id))
        except Exception as error:  # noqa: BLE001 - a secrets backend may raise anything
            failure = _lookup_error(self.portkey_conn_id, error)
        else:
            self._settings = settings.with_headers(self._headers)
            return self._settings
        if fallback is not None and not isinstance(failure, PortkeyInputError):
            return fallback
        raise failure  # Outside the handler: the original error may quote a secret, and would be its context in there.

    async def _aread_connection(self, not_before: float, fallback: Settings | None = None) -> Settings:
        """
        Return the result of a lookup that began at ``not_before`` or later, on the monotonic clock.

        :param fallback: what to use if Airflow does not find the connection
        """
        asked = time.monotonic()
        self._lookup = lookup = _lookup_of(self)
        failure = None
        if lookup.read_at < not_before:
            try:
                async with asyncio.timeout(LOOKUP_TIMEOUT):
                    while lookup.read_at < not_before and lookup.failed_at < asked:
                        if lookup.task is None:
                            lookup.task = asyncio.ensure_future(self._look_up_for(lookup))
                        # Shielded: a cancelled waiter must not cancel the lookup that it shares with others.
                        await asyncio.shield(lookup.task)
                failure = lookup.failure
            except TimeoutError:
                failure = PortkeyTransientError(
                    message(
                        f"Connection lookup timed out: check the secrets backend ({self.portkey_conn_id!r})",
                        f"Airflow did not return the connection within {LOOKUP_TIMEOUT:g} s.",
                    ),
                    origin="network",
                )
        if lookup.settings is not None and lookup.read_at >= not_before:
            self._settings = lookup.settings.with_headers(self._headers)
            return self._settings
        if fallback is not None and not isinstance(failure, PortkeyInputError):
            return fallback
        assert failure is not None
        raise copy.copy(failure)  # A copy, since each raise adds a traceback and a context.

    async def _look_up_for(self, lookup: _Lookup) -> None:
        began = time.monotonic()
        try:
            from airflow.providers.common.compat.connection import get_async_connection
            from asgiref.sync import sync_to_async

            connection = await get_async_connection(self.portkey_conn_id, hook=self)
            # In a thread: on Airflow 3 both reading and masking may call the supervisor.
            lookup.settings = await sync_to_async(self._read)(connection)
            lookup.read_at = began
        except Exception as error:  # noqa: BLE001 - a secrets backend may raise anything
            lookup.failure, lookup.failed_at = _lookup_error(self.portkey_conn_id, error), began
        finally:
            lookup.task = None

    def _read(self, connection: Connection) -> Settings:
        settings = Settings.from_connection(
            self._shown_id,
            host=connection.host,
            port=connection.port,
            schema=connection.schema,
            password=connection.password,
            extra=connection.extra,
        )
        for secret in settings.secrets:
            mask_secret(secret)
        return replace(settings, trusted_since=ca_changed_at(settings))


class _Lookup:
    """The results of the last lookups of a connection on an event loop."""

    def __init__(self) -> None:
        self.task: asyncio.Future[None] | None = None
        self.settings: Settings | None = None
        self.failure: Exception | None = None
        # When the lookups with these results began.
        self.read_at = self.failed_at = -math.inf


_Lookups = WeakValueDictionary[tuple[type[ConnectionHook], str], _Lookup]
_lookups: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lookups] = WeakKeyDictionary()


def _lookup_of(hook: ConnectionHook) -> _Lookup:
    loop = asyncio.get_running_loop()
    lookups = _lookups.get(loop)
    if lookups is None:
        lookups = _lookups[loop] = WeakValueDictionary()
    key = (type(hook), hook.portkey_conn_id)  # a subclass may look connections up in another way
    lookup = lookups.get(key)
    if lookup is None:
        lookup = lookups[key] = _Lookup()
    return lookup


def _lookup_error(conn_id: str, error: Exception) -> Exception:
    """Distinguish an invalid connection, which somebody must correct, from one that cannot be looked up just now."""
    if isinstance(error, PortkeyInputError):
        return error
    if isinstance(error, AirflowNotFoundException):
        return PortkeyConnectionNotFoundError(
            message(
                f"Connection not found: define it, or check the secrets backend ({conn_id!r})",
                "Workers and triggerers must both find it, and the secrets backend must respond.",
            )
        )
    # From here on the type alone: Airflow's text may quote the connection, and a secrets backend's own text anything.
    if isinstance(error, (AirflowException, ValueError)):
        return PortkeyInputError(
            message(f"Airflow cannot read the connection: check its definition ({conn_id!r})", type(error).__name__)
        )
    return PortkeyTransientError(
        message(f"Connection lookup failed: check the secrets backend ({conn_id!r})", type(error).__name__),
        origin="network",
    )
