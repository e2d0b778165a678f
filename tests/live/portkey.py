"""The connection to Portkey, and the XComs of a wait for a batch."""

from __future__ import annotations

from typing import Any

from tests.live.deployment import Deployment
from tests.server.gateway import Gateway
from tests.server.standin import StandIn, batch_body

CONN_ID = "portkey_default"
#: A provider key that only the scenario of a rotated key uses, so that the search for secrets can tell where it went.
NEW_KEY = "sk-rotated-9876543210"


def save_connection(airflow: Deployment, standin: StandIn, gateway: Gateway, provider_key: str | None = None) -> None:
    """Create or change the connection: through Portkey's gateway to the stand-in as the provider behind it."""
    headers = gateway.headers(standin)
    if provider_key is not None:
        headers["Authorization"] = f"Bearer {provider_key}"
    # The open-source gateway ignores the Portkey key. The connection has one so that the search for secrets covers it.
    airflow.save_connection(CONN_ID, host=gateway.base_url, password=standin.api_key, extra={"headers": headers})


def expected_xcoms(batch_id: str, status: str = "completed") -> dict[str, Any]:
    """Return all XComs that a wait for this batch pushes."""
    return {
        "return_value": batch_body(batch_id, status) | {"provider_status": status},
        "output_file_id": f"file-{batch_id}-output",
        "error_file_id": f"file-{batch_id}-error",
    }
