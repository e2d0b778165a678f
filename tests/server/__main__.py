"""Runs the stand-in in the foreground, for use with curl."""

from __future__ import annotations

import argparse
import signal
import threading
from contextlib import suppress

from tests.server.standin import StandIn

BATCH_ID = "batch_demo"
STEPS = [(0, "validating"), (10, "in_progress"), (40, "finalizing"), (50, "completed")]


def main() -> None:
    """Serve one slow batch until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: any that is free)")
    # A shell lets its background jobs ignore this signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with StandIn(port=parser.parse_args().port) as standin, suppress(KeyboardInterrupt):
        standin.timeline(BATCH_ID, STEPS)
        print(f"base URL     {standin.base_url}")
        print(f"API key      {standin.api_key}")
        print(f"virtual key  {standin.virtual_key}")
        print(f"batch        {BATCH_ID}, completed {STEPS[-1][0]} s after it is first asked for\n")
        print(f"curl -H 'x-portkey-api-key: {standin.api_key}' \\")
        print(f"    -H 'x-portkey-virtual-key: {standin.virtual_key}' \\")
        print(f"    {standin.base_url}/batches/{BATCH_ID}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
