"""Valid batches with unusual members: missing counts, times in milliseconds, values that JSON or a database rejects."""

from __future__ import annotations

import json
from typing import Any

from airflow_provider_portkey.exceptions import PortkeyRequestsFailedError
from tests.server.standin import Answer, batch_body
from tests.support.answers import completed_body, without
from tests.support.stacks import Stack
from tests.support.world import World
from tests.waits.case import Case, Given, Then, When, on_each_stack
from tests.waits.checks import all_of, result_has, took
from tests.waits.constants import SHORT_GRACE
from tests.waits.run import run_case

BATCH = completed_body("batch_1")
TIMES = {name: int(str(BATCH[name])) for name in ("created_at", "expires_at", "completed_at")}
BATCH_WITH_NUL = BATCH | {"metadata": {"a\0b": "c\0d", "path": "c:\\u0000"}}
UNUSABLE_COUNTS: dict[str, Any] = {
    "null": None,
    "an object of nulls": {"total": None, "completed": None, "failed": None},
    "an empty object": {},
    "a list": [1, 2, 3],
    "words": {"total": "many", "completed": "most", "failed": "few"},
    "negative": {"total": -1, "completed": -1, "failed": -1},
    "infinite or NaN": {"total": 1e999, "completed": "1e999", "failed": "nan"},
}


def result_is_strict_json(world: World) -> None:
    assert json.loads(json.dumps(world.result, allow_nan=False)) == world.result


# A completed batch whose provider has not named its output file yet.
UNNAMED: dict[str, Any] = {
    "status": "completed",
    "output_file_id": None,
    "request_counts": {"total": 3, "completed": 3, "failed": 0},
}

CASES: list[Case] = [
    Case(
        "JSON with content type text/plain",
        when=When([Answer(body=json.dumps(BATCH))]),
        then=Then(requests=1, warnings=0, check=result_has(output_file_id="file-batch_1-output")),
    ),
    Case(
        "JSON with content type text/html",
        when=When([Answer(body=json.dumps(BATCH), headers={"content-type": "text/html"})]),
        then=Then(requests=1),
    ),
    Case(
        "JSON with a byte order mark",
        when=When([Answer(body=b"\xef\xbb\xbf" + json.dumps(BATCH).encode())]),
        then=Then(requests=1),
    ),
    Case("HTTP 246 is a success", when=When([Answer(246, BATCH)]), then=Then(requests=1, warnings=0)),
    Case(
        "output_file_id is set while the batch is in flight",
        when=When(
            [
                {"status": "validating", "output_file_id": "file-early", "error_file_id": "file-early-too"},
                {"status": "in_progress", "output_file_id": "file-early", "error_file_id": "file-early-too"},
                "completed",
            ]
        ),
        then=Then(requests=3, check=result_has(output_file_id="file-batch_1-output")),
    ),
    Case(
        "request_counts as strings",
        when=When(
            [
                {
                    "status": "completed",
                    "output_file_id": "file-1",
                    "request_counts": {"total": "100", "completed": "98", "failed": "2"},
                }
            ]
        ),
        then=Then(
            requests=1,
            message_has=["Some requests of the batch failed", "98 succeeded, 2 failed, 100 in all"],
            check=result_has(request_counts={"total": 100, "completed": 98, "failed": 2}),
        ),
    ),
    Case(
        "request_counts as strings, all requests failed",
        when=When([{"status": "completed", "request_counts": {"total": "9", "completed": "0", "failed": "9"}}]),
        then=Then(
            error=PortkeyRequestsFailedError,
            first_line="All requests of the batch failed: the provider named no error file",
            message_has=["0 succeeded, 9 failed, 9 in all", "fail_on_request_errors='all'"],
            requests=1,
        ),
    ),
    *(
        Case(
            f"request_counts are {name}",
            when=When([{"status": "completed", "request_counts": counts}]),
            then=Then(
                requests=1,
                warnings=0,
                check=result_has(request_counts={"total": None, "completed": None, "failed": None}),
            ),
        )
        for name, counts in UNUSABLE_COUNTS.items()
    ),
    Case(
        "completed with answers, a moment before its output file is named: the wait continues",
        when=When(["in_progress", UNNAMED, UNNAMED, "completed"]),
        then=Then(requests=4, warnings=0, check=result_has(output_file_id="file-batch_1-output")),
    ),
    Case(
        "completed with answers, and never a name of its output file: believed after a grace",
        given=Given(constants=SHORT_GRACE),
        when=When(["in_progress", UNNAMED]),
        then=Then(check=all_of(took(0.4, 3.0), result_has(output_file_id=None))),
    ),
    Case(
        "completed with answers, its output file not named at the deadline: believed",
        when=When(["in_progress", UNNAMED], sensor={"timeout": 0.5}),
        then=Then(check=all_of(took(0.5, 3.0), result_has(output_file_id=None))),
    ),
    Case(
        "completed with answers in a shape without output_file_id: believed at once",
        when=When([Answer(body=without(batch_body("batch_1", **UNNAMED), "output_file_id"))]),
        then=Then(requests=1, check=result_has(output_file_id=None)),
    ),
    Case(
        "completed without answers, and no output file: nothing is missing",
        when=When([UNNAMED | {"request_counts": {"total": 0, "completed": 0, "failed": 0}}]),
        then=Then(requests=1, check=result_has(output_file_id=None)),
    ),
    Case(
        "times in milliseconds",
        when=When(
            [
                {"status": "completed", "output_file_id": "file-1"}
                | {name: seconds * 1000 for name, seconds in TIMES.items()}
            ]
        ),
        then=Then(requests=1, check=result_has(**TIMES)),
    ),
    Case(
        "times as strings",
        when=When(
            [
                {"status": "completed", "output_file_id": "file-1"}
                | {name: str(seconds) for name, seconds in TIMES.items()}
            ]
        ),
        then=Then(requests=1, check=result_has(**TIMES)),
    ),
    Case(
        "nothing but id, object and status",
        when=When([Answer(body={"id": "batch_1", "object": "batch", "status": "completed"})]),
        then=Then(
            requests=1,
            warnings=0,
            check=result_has(status="completed", output_file_id=None, created_at=None, errors=None),
        ),
    ),
    Case(
        "the response has a member provider_status of its own",
        when=When(
            [{"status": "completed", "output_file_id": "file-1", "provider_status": None}], sensor={"timeout": 2.0}
        ),
        then=Then(requests=1, check=result_has(status="completed", provider_status="completed")),
    ),
    *(
        Case(
            f"metadata contains {value}, which is not strict JSON",
            when=When([Answer(body=json.dumps(BATCH | {"metadata": {"a": "?"}}).replace('"?"', value))]),
            then=Then(requests=1, check=result_is_strict_json),
        )
        for value in ("NaN", "-Infinity", "1e999")
    ),
    Case(
        "metadata contains NUL, which PostgreSQL rejects",
        when=When([Answer(body=BATCH_WITH_NUL)]),
        then=Then(requests=1, check=result_has(metadata={"ab": "cd", "path": "c:\\u0000"})),
    ),
]


@on_each_stack(CASES)
def test_an_unusual_batch_is_read(case: Case, stack: Stack, world: World) -> None:
    run_case(case, stack, world)
