"""
The memory that a transfer needs does not grow with the file: each transfer runs in a process of its own.

``PORTKEY_TEST_MEGABYTES`` makes the files larger; ``pytest -s`` shows the measurements.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.server.standin import StandIn, batch_body

MEGABYTES = int(os.environ.get("PORTKEY_TEST_MEGABYTES", "128"))
#: What a transfer may add to the memory of its process, in MB.
LIMIT = 64
REQUESTS = 50_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


def line(n: int, size: int) -> bytes:
    """Return a line of ``size`` bytes: a request, and also a response, of which only the custom_id is read."""
    text = b'{"custom_id": "%08d", "method": "POST", "url": "/v1/chat/completions", "body": {"x": "' % n
    return text + b"x" * (size - len(text) - 4) + b'"}}\n'


# --- Runs in the process that is measured. ----------------------------------------------------------------------------


def upload(path: str) -> None:
    from airflow_provider_portkey.hooks.portkey import PortkeyHook

    PortkeyHook().upload_file(path)


def download(file_id: str, path: str) -> None:
    from airflow_provider_portkey.hooks.portkey import PortkeyHook

    PortkeyHook().download_file(file_id, path)


def create(path: str) -> None:
    from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator

    ti = SimpleNamespace(
        dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, xcom_push=lambda key, value: None
    )
    context: Any = {"ti": ti}
    PortkeyCreateBatchOperator(task_id="t", input_path=path).execute(context)


def download_all(batch_id: str, folder: str) -> None:
    from airflow_provider_portkey.operators.batch import PortkeyDownloadBatchOperator

    context: Any = {}
    path = f"{folder}/{batch_id}"
    manifest = PortkeyDownloadBatchOperator(task_id="t", batch_id=batch_id, path=path).execute(context)
    assert manifest["missing_count"] == 1, manifest


def memory(name: str) -> int:
    """Return VmRSS, or VmHWM, its peak, in kB. ``ru_maxrss`` would begin with the peak of the parent process."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def measure(name: str, small: list[str], large: list[str]) -> None:
    """Run a transfer with a small file, so that all is imported, then measure it with a large one."""
    transfer: Callable[..., None] = globals()[name]
    transfer(*small)
    Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
    before, started_at = memory("VmRSS"), time.monotonic()
    transfer(*large)
    print(json.dumps([name, (memory("VmHWM") - before) / 1_000, time.monotonic() - started_at]), flush=True)


def main() -> None:
    # Imported before the processes are forked, since it takes seconds.
    import airflow_provider_portkey.operators.batch  # noqa: F401

    for transfer in json.loads(sys.argv[1]):
        process = multiprocessing.get_context("fork").Process(target=measure, args=transfer)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)


if __name__ == "__main__":
    main()


# --- The test. --------------------------------------------------------------------------------------------------------


def write_lines(path: Path, count: int, size: int) -> str:
    with path.open("wb") as file:
        for n in range(count):
            file.write(line(n, size))
    return str(path)


def test_no_transfer_needs_memory_for_the_whole_file(standin: StandIn, connection: str, tmp_path: Path) -> None:
    standin.keep_uploads = False
    small = write_lines(tmp_path / "small.jsonl", 1, 1_000)
    large = write_lines(tmp_path / "large.jsonl", MEGABYTES, 1_000_000)
    many = write_lines(tmp_path / "many.jsonl", REQUESTS, 1_000)
    standin.generate("file-small", line(1, 1_000), 1)
    standin.generate("file-large", line(1, 1_000), MEGABYTES * 1_000)
    # A response is missing, so that the requests are read too, to find out which one.
    for batch_id, responses in (("batch_small", 1), ("batch_large", REQUESTS)):
        counts = {"total": responses + 1, "completed": responses, "failed": 0}
        standin.script(batch_id, batch_body(batch_id, "completed", request_counts=counts, error_file_id=None))
        standin.generate(f"file-{batch_id}-output", lambda n: line(n, 1_000), responses)
        standin.generate(f"file-{batch_id}-input", lambda n: line(n, 1_000), responses + 1)
    results = str(tmp_path / "results")
    transfers = {
        "upload": ([small], [large], MEGABYTES),
        "download": (["file-small", f"{results}/small"], ["file-large", f"{results}/large"], MEGABYTES),
        # Checked and written, then read and sent.
        "create": ([small], [many], 2 * REQUESTS / 1_000),
        "download_all": (["batch_small", results], ["batch_large", results], 2 * REQUESTS / 1_000),
    }

    arguments = json.dumps([(name, small, large) for name, (small, large, _) in transfers.items()])
    command = [sys.executable, "-m", "tests.calls.test_memory", arguments]
    root = Path(__file__).parents[2]
    process = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert process.returncode == 0, process.stdout + process.stderr

    measured = [json.loads(text) for text in process.stdout.splitlines() if text.startswith('["')]
    for name, extra, seconds in measured:
        size = transfers[name][2]
        print(f"{name}: {size:,.0f} MB in {seconds:.1f} s, {size / seconds:,.0f} MB/s, {extra:.1f} MB more memory")
    assert [name for name, extra, _ in measured if extra < LIMIT] == list(transfers)
    assert [upload.bytes for upload in standin.uploads] == [1_000, MEGABYTES * 1_000_000, 1_000, REQUESTS * 1_000]
    assert (tmp_path / "results" / "large").stat().st_size == MEGABYTES * 1_000_000
    assert (tmp_path / "results" / "batch_large" / "output.jsonl").stat().st_size == REQUESTS * 1_000
