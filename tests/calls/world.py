"""Where one case of a call happens."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_portkey.hooks.portkey import PortkeyHook
from tests.server.standin import StandIn
from tests.support.backoff import set_max_backoff
from tests.support.world import World

ENDPOINT = "/v1/chat/completions"


def request_lines(count: int) -> bytes:
    """Return a file of ``count`` requests of 10 kB each."""
    line = b'{"custom_id": "%d", "method": "POST", "url": "/v1/chat/completions", "body": {"x": "%s"}}\n'
    return b"".join(line % (n, b"x" * 10_000) for n in range(count))


SMALL_FILE = request_lines(50)
#: 8 MB: more than the buffers between client and server hold, so that a connection can break while it is sent.
LARGE_FILE = request_lines(800)


class CallWorld(World):
    """A server with two files and a batch, a hook that is connected to it, and a folder with a file to upload."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, cleanup: ExitStack) -> None:
        super().__init__(monkeypatch, folder, cleanup)
        #: What the call returned; an iterator as a list.
        self.returned: Any = None
        #: The content of the file to upload, and of the server's file-1.
        self.content = SMALL_FILE
        self.standin = self.serve_files()
        # Entered after the server, so that an outage ends before the server stops.
        self.outage = cleanup.enter_context(ExitStack())
        self.source = self.write_file("requests.jsonl", SMALL_FILE)
        self.target = folder / "results" / "output.jsonl"
        self.hook = PortkeyHook()
        self.set_connection()
        self.set_max_backoff(0.002)

    def serve_files(self, context: ssl.SSLContext | None = None) -> StandIn:
        """Start a server that has the files and the batch."""
        standin = self.serve(context)
        standin.course = ((0, "in_progress"),)
        standin.files |= {"file-1": SMALL_FILE, "file-in": b""}
        standin.script("batch_1", "in_progress")
        return standin

    def set_max_backoff(self, seconds: float) -> None:
        set_max_backoff(self.monkeypatch, seconds)

    def use_large_files(self) -> None:
        self.content = self.standin.files["file-1"] = LARGE_FILE
        self.source.write_bytes(LARGE_FILE)

    def write_target(self, content: bytes) -> None:
        """Let there be a file where the call downloads to."""
        self.target.parent.mkdir()
        self.target.write_bytes(content)

    @property
    def target_files(self) -> dict[str, bytes]:
        """The files in the folder that the call downloads to, by name."""
        folder = self.target.parent
        return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}

    def use_hook(self) -> None:
        """Make a call, so that the hook has read the connection before what follows."""
        self.hook.get_batch("batch_1")
        self.standin.requests.clear()

    def rotate_api_key(self) -> None:
        """Change the API key that the server accepts, but not yet the connection."""
        self.standin.api_key = "pk-the-new-one-0123"

    def move_server(self) -> None:
        """Start another server, and let the connection name it."""
        self.standin = self.serve_files()
        self.set_connection()

    def create_batch(self, **fields: Any) -> Any:
        return self.hook.create_batch(**{"input_file_id": "file-in", "endpoint": ENDPOINT} | fields)

    def create_batches(self, count: int) -> None:
        """Let the server have that many batches more."""
        with self.hook.get_conn() as session:
            for _ in range(count):
                body = {"input_file_id": "file-in", "endpoint": ENDPOINT, "completion_window": "24h"}
                session.post(f"{self.standin.base_url}/batches", json=body, timeout=10)
        self.standin.requests.clear()

    def received_at(self, method: str, path: str) -> Sequence[float]:
        """When the server received each request of ``method`` whose path matches."""
        return [
            seen.at
            for seen in self.standin.requests
            if seen.method == method and re.fullmatch(path, seen.raw_path.partition("?")[0])
        ]
