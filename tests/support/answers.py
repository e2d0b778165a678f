"""Responses that a server in a test sends."""

from __future__ import annotations

from collections.abc import Mapping

from tests.server.standin import Answer, batch_body


def completed_body(batch_id: str) -> dict[str, object]:
    """A completed batch without failed requests: nothing in it causes a warning."""
    return batch_body(batch_id, "completed", request_counts={"total": 100, "completed": 100, "failed": 0})


def provider_error(status: int, message: str) -> Answer:
    """An error of the provider, as Portkey passes it on."""
    body = {"error": {"message": f"openai error: {message}", "type": "server_error"}, "provider": "openai"}
    return Answer(status, body, {"x-portkey-provider": "openai"})


def portkey_error(status: int, message: str, **members: object) -> Answer:
    """An error of Portkey itself."""
    return Answer(status, {"status": "failure", "message": message} | members)


def html_page(status: int, text: str) -> Answer:
    """An HTML page of a load balancer or proxy in front of Portkey."""
    return Answer(status, f"<html><body><h1>{text}</h1></body></html>", {"content-type": "text/html"})


def without(body: Mapping[str, object], *names: str) -> dict[str, object]:
    """Return ``body`` without the members ``names``."""
    return {name: value for name, value in body.items() if name not in names}


def raw_answer(body: bytes, content_length: int | None = None) -> bytes:
    """A whole HTTP response as bytes; ``content_length`` may differ from the real length."""
    length = len(body) if content_length is None else content_length
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length + body
