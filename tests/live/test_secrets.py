"""A search for secrets in everything that the other scenarios left behind, so it runs last."""

from __future__ import annotations

from tests.live.dags.waits import WAITS
from tests.live.deployment import Deployment
from tests.live.portkey import NEW_KEY
from tests.server.standin import StandIn


def test_no_secret_is_in_the_database_in_logs_or_in_responses_of_the_api(airflow: Deployment, standin: StandIn) -> None:
    secrets = [standin.provider_key, standin.api_key, NEW_KEY]
    # Some columns are binary, and a dump shows them in hexadecimal.
    secrets += [secret.encode().hex() for secret in secrets]
    standin.course = [(0, "in_progress")]
    standin.script("batch_stored", "in_progress")
    run = airflow.trigger("waits", batch_id="batch_stored")
    run.wait_until_deferred([*WAITS, "create"])
    # Airflow deletes a trigger's row when the trigger fires, so the rows are read while the batch is in flight.
    triggers, dump = airflow.postgres.trigger_arguments(), airflow.postgres.dump()
    standin.script("batch_stored", "completed")
    standin.script(run.xcom("create", "batch_id"), "completed")
    assert set(run.wait().values()) == {"success"}
    run.wait_for_logs(WAITS, "Batch batch_stored is completed")
    assert {run.xcom(name)["id"] for name in WAITS} == {"batch_stored"}

    assert sum("batch_stored" in arguments for arguments in triggers) == len(WAITS)
    assert not [s for s in secrets if any(s in arguments for arguments in triggers)]
    assert not [s for s in secrets if s in dump or s in airflow.postgres.dump()]
    assert not [s for s in secrets if any(s in response for response in airflow.responses)]
    leaks = [p.name for p in airflow.log_files() if any(s in p.read_text(errors="replace") for s in secrets)]
    assert not leaks
