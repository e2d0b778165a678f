"""
A batch API that responds after a fixed latency and needs little CPU.

It is leaner than the stand-in of the tests, because the benchmark must not measure its server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
from collections import Counter

from tests.server.standin import HOST, batch_body

#: A batch is completed at the third poll.
POLLS = 3


def _body(batch_id: str, ended: bool, *, anthropic: bool) -> bytes:
    if not anthropic:
        return json.dumps(batch_body(batch_id, "completed" if ended else "in_progress")).encode()
    counts = {"processing": 0 if ended else 59, "succeeded": 98, "errored": 2, "canceled": 0, "expired": 0}
    batch = {
        "id": batch_id,
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": counts,
        "ended_at": "2026-01-01T01:00:00Z" if ended else None,
        "created_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-02T00:00:00Z",
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"https://example.com/{batch_id}/results" if ended else None,
    }
    return json.dumps(batch).encode()


class Server:
    """Counts requests and connections; ``GET /figures`` returns the counts."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.polls: Counter[str] = Counter()
        self.connections = 0

    def respond(self, path: str) -> bytes:
        """Return the whole response to ``GET path``."""
        if path == "/figures":
            figures = {"requests": self.polls.total(), "connections": self.connections}
            body = json.dumps(figures).encode()
        else:
            batch_id = path.rpartition("/")[2]
            self.polls[batch_id] += 1
            body = _body(batch_id, self.polls[batch_id] >= POLLS, anthropic="/messages/" in path)
        return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class _Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._counts = False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._buffer.endswith(b"\r\n\r\n"):
            return
        path = self._buffer.split(b" ", 2)[1].decode()
        self._buffer = b""
        response = self._server.respond(path)
        if path == "/figures":
            self._transport.write(response)
            return
        if not self._counts:
            self._counts = True
            self._server.connections += 1
        asyncio.get_running_loop().call_later(self._server.latency, self._transport.write, response)


async def _serve(latency: float, certificate: str | None) -> None:
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    server = Server(latency)
    listener = await asyncio.get_running_loop().create_server(
        lambda: _Connection(server), HOST, 0, ssl=context, backlog=4096
    )
    port = listener.sockets[0].getsockname()[1]
    print(f"{'https' if context else 'http'}://{HOST}:{port}", flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("latency", type=float)
    parser.add_argument("certificate", nargs="?")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.latency, arguments.certificate))
