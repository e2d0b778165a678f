"""Runs the stand-in in the foreground, for DAGs of your own and for curl."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from contextlib import suppress
from typing import Any

from tests.server.batches import completion
from tests.server.standin import StandIn

#: How a batch runs that a client creates, and from its first poll on the one that is there from the start.
COURSE = [(0, "validating"), (5, "in_progress"), (15, "finalizing"), (20, "completed")]
#: Batches that are there from the start, and what has become of them.
BATCHES = {f"batch_{status}": status for status in ("completed", "failed", "expired", "cancelled")}
#: A request whose custom_id begins like this is answered with an error.
FAILS = "fail"


def respond(line: dict[str, Any]) -> dict[str, Any]:
    """Answer a request, or let it fail if its custom_id asks for that."""
    if not line["custom_id"].startswith(FAILS):
        return completion(line)
    error = {
        "message": f"The custom_id begins with {FAILS!r}.",
        "type": "invalid_request_error",
        "code": "invalid_value",
    }
    return {"status_code": 400, "body": {"error": error}}


def set_up(standin: StandIn) -> None:
    """Give the stand-in its batches, and say how those run that a client creates."""
    standin.course, standin.respond = COURSE, respond
    standin.timeline("batch_demo", COURSE)
    for batch_id, status in BATCHES.items():
        standin.script(batch_id, status)


def connection(standin: StandIn) -> str:
    """Return the command that points ``portkey_default`` at the stand-in."""
    fields = {
        "conn_type": "portkey",
        "host": standin.url,
        "password": standin.api_key,
        "extra": {"virtual_key": standin.virtual_key},
    }
    return f"export AIRFLOW_CONN_PORTKEY_DEFAULT='{json.dumps(fields)}'"


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: any that is free)")
    return parser


def main() -> None:
    """Serve until interrupted."""
    # A shell lets its background jobs ignore this signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with StandIn(port=parser().parse_args().port) as standin, suppress(KeyboardInterrupt):
        set_up(standin)
        seconds = COURSE[-1][0]
        print(f"A stand-in for Portkey listens at {standin.base_url}\n")
        print(f"{connection(standin)}\n")
        print(f"A batch that you create completes after {seconds} s.")
        print(f"A request whose custom_id begins with {FAILS!r} fails.")
        print(f"batch_demo completes {seconds} s after its first poll. These have ended: {', '.join(BATCHES)}.\n")
        print(f"curl -H 'x-portkey-api-key: {standin.api_key}' \\")
        print(f"    -H 'x-portkey-virtual-key: {standin.virtual_key}' \\")
        print(f"    {standin.base_url}/batches/batch_demo", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
