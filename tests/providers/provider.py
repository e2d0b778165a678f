"""What a test needs to know of a provider behind the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.providers.job import Ending, Fate
from tests.providers.prompts import reply


class Provider:
    """
    A provider behind the gateway. Batches that are created from now on end as ``ending`` says.

    :cvar name: its slug in Portkey's words
    :cvar endpoint: what its batches call
    :cvar expires: whether a batch of this provider can run out of time with a part of its answers
    :cvar reports_failures: whether a request of a batch can fail by itself
    :cvar reads_input: whether the file of requests can be read after the upload, and is what was uploaded
    :cvar source: where the whole answers of its batches are: in files, or in the output alone
    :cvar names_unreached: whether an expired batch names the requests that it did not reach
    :cvar processes_files: whether it refuses a batch until it has processed the batch's file
    :ivar processed_after: how many times a file is retrieved before it is processed, by those that do
    """

    name: str
    endpoint: str = "/v1/chat/completions"
    expires: bool = True
    reports_failures: bool = True
    reads_input: bool = True
    source: str = "files"
    names_unreached: bool = False
    processes_files: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.ending = Ending()
        self.processed_after = 2

    def reset(self, bucket: str) -> None:
        """Begin a test: batches end well, and files go to a bucket of its own."""
        self.ending = Ending()
        self.processed_after = 2

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a connection to this provider through the gateway, without ``x-portkey-provider``."""
        raise NotImplementedError

    @property
    def extra_body(self) -> dict[str, Any]:
        """What a call that creates a batch needs besides the documented members."""
        return {}

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of an operator that creates a batch, besides its requests."""
        return {"endpoint": self.endpoint, "extra_body": self.extra_body}

    @property
    def base_url(self) -> str | None:
        """Where it is reached, if that is not the gateway."""
        return None

    def connection(self, base_url: str) -> dict[str, Any]:
        """Return the fields of an Airflow connection to this provider through the gateway."""
        return {"host": base_url, "extra": {"provider": self.name, "headers": self.headers}}

    def body(self, prompt: str) -> dict[str, Any]:
        """Return a request's body, in OpenAI's shape as Portkey wants it."""
        return {"model": "gpt-4o-mini", "max_tokens": 100, "messages": [{"role": "user", "content": prompt}]}

    def requests(self, prompts: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the requests of a batch."""
        return [
            {"custom_id": custom_id, "method": "POST", "url": self.endpoint, "body": self.body(prompt)}
            for custom_id, prompt in prompts.items()
        ]

    def answer(self, prompt: str) -> Any:
        """Return what is expected to come back for a prompt: a text, or an embedding."""
        return reply(prompt)

    def expected(self, prompts: Mapping[str, str]) -> dict[str, Any]:
        """Return what is expected to come back of a batch, by custom_id, for each request that is answered."""
        return {each: self.answer(prompts[each]) for each, fate in self.fates(prompts).items() if fate == "answered"}

    def fates(self, prompts: Mapping[str, str]) -> dict[str, Fate]:
        """Return what becomes of each request of a batch."""
        return self.ending.fates(prompts)
