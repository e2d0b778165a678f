"""
OpenAI: the stand-in of tests/server, in the place of api.openai.com.

It is not reached with ``x-portkey-custom-host``, because the gateway's ``/output`` ignores that header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.providers.job import Ending
from tests.providers.openai_rows import completion
from tests.providers.provider import Provider
from tests.server.standin import StandIn


class OpenAI(Provider):
    """The stand-in, with the answers and the endings that the other providers have."""

    name = "openai"
    names_unreached = True

    def __init__(self) -> None:
        self.standin = StandIn()
        super().__init__()

    def __enter__(self) -> OpenAI:
        self.standin.start()
        self.standin.respond = self._respond
        return self

    def __exit__(self, *_: object) -> None:
        self.standin.stop()

    @property
    def ending(self) -> Ending:
        return self._ending

    @ending.setter
    def ending(self, ending: Ending) -> None:
        self._ending = ending
        status = "expired" if ending.expired else "completed"
        self.standin.course = ((0, "validating"), (0.05 * ending.polls, "in_progress"), (0.15 * ending.polls, status))

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.standin.provider_key}"}

    def _respond(self, line: Mapping[str, Any]) -> dict[str, Any] | None:
        if line["custom_id"] in self._ending.lost:
            return None
        if line["custom_id"] in self._ending.failed:
            error = {"message": "Invalid 'max_tokens'.", "type": "invalid_request_error", "code": "invalid_value"}
            return {"status_code": 400, "body": {"error": error}}
        return {"status_code": 200, "body": completion(line)}
