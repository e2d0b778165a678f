"""Downloads to an object store."""

from __future__ import annotations

import json

from tests.live.deployment import Deployment
from tests.providers.storage import S3, Storage, install_s3fs
from tests.server.batches import output_line
from tests.server.standin import StandIn


def test_a_download_to_s3_needs_no_permission_but_to_put(airflow: Deployment, standin: StandIn) -> None:
    standin.script("batch_s3", "completed")
    # Trailing spaces make an object that s3fs uploads in several parts.
    lines = [output_line(f"request-{n}").rstrip() + b" " * 600_000 + b"\n" for n in range(98)]
    standin.files["file-batch_s3-output"] = b"".join(lines)

    with Storage() as storage:
        s3 = S3(storage.bucket("s3", "answers"))
        options = storage.put_only_options()
        s3.enforce(permissions=True)
        run = airflow.trigger(
            "to_s3", batch_id="batch_s3", path=s3.path("results"), s3fs=str(install_s3fs()), options=options
        )
        states = run.wait()
        run.wait_for_log("download", f"Cannot read {s3.path('results/manifest.json')}", "Forbidden")

        assert states == {"download": "success"}
        manifest = run.xcom("download")
        assert (manifest["counts_match"], manifest["output"]["path"]) == (True, s3.path("results/output.jsonl"))
        assert s3.read("results/output.jsonl") == standin.files["file-batch_s3-output"]
        assert s3.read("results/error.jsonl") == standin.files["file-batch_s3-error"]
        assert json.loads(s3.read("results/manifest.json") or b"")["output"] == manifest["output"]
        assert s3.listed("versions") == [f"results/{name}" for name in ("error.jsonl", "manifest.json", "output.jsonl")]
        assert s3.listed("uploads") == []
