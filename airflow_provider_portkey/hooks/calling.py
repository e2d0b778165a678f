"""Sending calls with the settings that the connection has now: retries, and a connection that changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Self, TypeAlias, TypeVar

from airflow_provider_portkey.exceptions import (
    PortkeyOutcomeUnknownError,
    PortkeyRefusedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.failures import as_outcome_unknown
from airflow_provider_portkey.hooks.connection import ConnectionHook
from airflow_provider_portkey.http import Request, Response
from airflow_provider_portkey.retry import tenacity_policy
from airflow_provider_portkey.settings import Settings
from airflow_provider_portkey.transport import aio, sync

T = TypeVar("T")
BuildRequest: TypeAlias = Callable[[Settings], Request]
ReadResponse: TypeAlias = Callable[[Response, Request, Settings], T]


class CallingHook(ConnectionHook):
    """
    Sends calls to Portkey, on workers and on an event loop.

    :param portkey_conn_id: the id of the Airflow connection
    :param headers: headers to send in addition to the connection's, or instead of those of the same names
    """

    def __init__(self, portkey_conn_id: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(portkey_conn_id, headers)
        # After a failed call the connection is read again, if Airflow returns it: its host may have moved.
        self._read_again = False
        self._entered = 0
        self._held = AsyncExitStack()
        self._held_for: Settings | None = None

    async def __aenter__(self) -> Self:
        self._entered += 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._entered -= 1
        if not self._entered:
            await self._hold_session(None)

    def _call(self, build: BuildRequest, send: sync.Send[T], retry_within: float | None = None) -> T:
        """Send a request with the connection's settings; after a refusal, once more if these have changed."""
        settings = self._settings
        if settings is None or (self._read_again and self.may_look_up):
            known = settings
            settings = self._read_connection(fallback=known)
            # Airflow may not have returned it: then the known settings stay, and the next call asks again.
            self._read_again = settings is known
        try:
            return self._call_with(settings, build, send, retry_within)
        except (PortkeyTransientError, PortkeyOutcomeUnknownError):
            self._read_again = True
            raise
        except PortkeyRefusedError:
            # Settings that were read for this very call may be old by now: its attempts may have outlasted an outage.
            known = settings
            if not self.may_look_up or (settings := self._read_connection()) == known:
                raise
            self._read_again = False
        return self._call_with(settings, build, send, retry_within)

    def _call_with(self, settings: Settings, build: BuildRequest, send: sync.Send[T], retry_within: float | None) -> T:
        from tenacity import Retrying

        request = build(settings)
        with sync.open_session(settings) as session:
            for attempt in Retrying(**tenacity_policy(retry_within, self.log)):
                with attempt:
                    try:
                        return send(session, request, settings)
                    except PortkeyTransientError as error:
                        failure = as_outcome_unknown(error, request)
                    raise failure
        raise AssertionError("unreachable: tenacity reraises")

    async def _acall(self, build: BuildRequest, read: ReadResponse[T], retry_within: float | None = None) -> T:
        """Do what :meth:`_call` does, without blocking the event loop."""
        settings = await self._aread_connection(self._not_before, fallback=self._settings)
        try:
            return await self._acall_with(settings, build, read, retry_within)
        except PortkeyTransientError:
            self._not_before = time.monotonic()
            raise
        except PortkeyRefusedError:
            known = settings
            if (settings := await self._aread_connection(time.monotonic())) == known:
                raise
        return await self._acall_with(settings, build, read, retry_within)

    async def _acall_with(
        self, settings: Settings, build: BuildRequest, read: ReadResponse[T], retry_within: float | None
    ) -> T:
        request = build(settings)
        if self._entered:
            await self._hold_session(settings)
        async with aio.shared_session(settings) as shared:
            from tenacity import AsyncRetrying

            async for attempt in AsyncRetrying(**tenacity_policy(retry_within, self.log)):
                with attempt:
                    return await shared.call(request, read, retry_within)
        raise AssertionError("unreachable: tenacity reraises")

    async def _hold_session(self, settings: Settings | None) -> None:
        """Hold the session for ``settings`` open between calls, in place of the one that was held."""
        if settings == self._held_for:
            return
        held = AsyncExitStack()
        if settings is not None:
            await held.enter_async_context(aio.shared_session(settings))
            if not self._entered:  # the hook was left while this call opened the session
                await held.aclose()
                return
        held, self._held, self._held_for = self._held, held, settings
        await held.aclose()
