from __future__ import annotations
import pytest
from tests.airflow_run import run_wait
from tests.server.standin import StandIn

pytestmark = pytest.mark.usefixtures("airflow_db", "connection")
MODES = {
    "poke": ("PortkeyBatchSensor", {}),
    "reschedule": ("PortkeyBatchSensor", {"mode": "reschedule"}),
    "deferred": ("PortkeyBatchSensor", {"deferrable": True}),
    "operator": ("PortkeyRetrieveBatchOperator", {"wait_for_completion": True}),
    "operator-deferred": ("PortkeyRetrieveBatchOperator", {"wait_for_completion": True, "deferrable": True}),
}

@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ["completed", "expired"])
def test_x(mode, end, standin: StandIn):
    standin.script("batch_1", "validating", "in_progress", end)
    op, kw = MODES[mode]
    run = run_wait(op, "batch_1", **kw)
    print(run)
    assert run.states == {"wait": "success" if end == "completed" else "failed"}
    assert run.xcoms["wait"]["output_file_id"]
    assert run.xcoms["wait"]["return_value"]["status"] == end
