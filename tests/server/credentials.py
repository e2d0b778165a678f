"""Who accepts or rejects a request: Portkey, or the provider behind it; and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tests.server.answer import Answer

_ROUTING_HEADERS = ("x-portkey-virtual-key", "x-portkey-provider", "x-portkey-config")


class Keys(Protocol):
    """What the servers accept."""

    api_key: str
    virtual_key: str
    provider_key: str


def provider_error(
    status: int, message: str, code: str | None = None, *, param: str | None = None, hosted: bool
) -> Answer:
    """Return an error of the provider: in OpenAI's own shape or, if ``hosted``, as Portkey passes it on."""
    if hosted:
        message = f"openai error: {message}"
    body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
    if not hosted:
        return Answer(status, body)
    return Answer(status, body | {"provider": "openai"}, {"x-portkey-provider": "openai"})


def is_hosted(headers: Mapping[str, str], keys: Keys) -> bool:
    """Whether the request is for Portkey. The provider behind it receives none of Portkey's headers."""
    token = _token(headers)
    if "x-portkey-api-key" in headers or token in (None, keys.api_key):
        return True
    return token != keys.provider_key and any(name.lower().startswith("x-portkey-") for name in headers)


def is_managed(headers: Mapping[str, str]) -> bool:
    """Whether the request names no provider: then Portkey searches the batches that it manages itself."""
    return not any(name in headers for name in _ROUTING_HEADERS)


def portkey_rejection(headers: Mapping[str, str], keys: Keys) -> Answer | None:
    """Return Portkey's rejection; or the provider's, if Portkey has no stored credential to use; or ``None``."""
    kind = headers.get("content-type", "application/json").partition(";")[0]
    if kind not in ("application/json", "multipart/form-data"):
        return Answer(400, {"status": "failure", "message": "Invalid content type passed"})
    token = _token(headers)
    if headers.get("x-portkey-api-key", token) != keys.api_key:
        message = "Portkey Error: Invalid API Key. Error Code: 03"
        error = {"message": message, "code": "03"}
        return Answer(401, {"status": "failure", "message": message, "error": error})
    virtual_key, provider = headers.get("x-portkey-virtual-key"), headers.get("x-portkey-provider")
    if virtual_key not in (None, keys.virtual_key):
        return _unknown_slug(virtual_key)
    if provider not in (None, "openai", f"@{keys.virtual_key}"):
        return _unknown_slug(provider.removeprefix("@"))
    # With the API key in its own header, Authorization is for the provider: a stray one breaks the call.
    has_own_token = "x-portkey-api-key" in headers and token not in (None, keys.api_key)
    has_stored_key = provider != "openai" or virtual_key is not None or "x-portkey-config" in headers
    return provider_rejection(headers, keys, hosted=True) if has_own_token or not has_stored_key else None


def provider_rejection(headers: Mapping[str, str], keys: Keys, *, hosted: bool = False) -> Answer | None:
    """Return the provider's rejection of a wrong key, or ``None``."""
    token = _token(headers) or ""
    if token == keys.provider_key:
        return None
    message = f"Incorrect API key provided: {token[:8]}{'*' * 12}{token[-4:]}."
    return provider_error(401, message, "invalid_api_key", hosted=hosted)


def _token(headers: Mapping[str, str]) -> str | None:
    """Return the value of ``Authorization``. Any scheme but Bearer stays in it, and so never equals a key."""
    value = headers.get("Authorization")
    return None if value is None else value.removeprefix("Bearer ")


def _unknown_slug(slug: str) -> Answer:
    return Answer(400, {"status": "failure", "message": f"Following keys are not valid: {slug}"})
