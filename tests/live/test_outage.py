"""A gateway that is down or replaced by an error page for a minute, and a key that is rotated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from tests.live.dags.modes import WAITS
from tests.live.deployment import Deployment
from tests.live.host import refused_port, wait_for
from tests.live.portkey import NEW_KEY, expected_xcoms, save_connection
from tests.server.gateway import Gateway
from tests.server.standin import StandIn


def test_an_outage_of_a_minute_and_a_rotated_key_fail_no_wait(
    airflow: Deployment, standin: StandIn, gateway: Gateway
) -> None:
    standin.script("batch_outage", "in_progress")
    run = airflow.trigger("modes", batch_id="batch_outage")
    run.wait_until_deferred([name for name, (_, kwargs) in WAITS.items() if kwargs.get("deferrable")])
    run.wait_for_logs(WAITS, "Batch batch_outage is in_progress")
    # A rescheduled sensor polls in a new process each time, which cannot know that the previous poll failed.
    continuous = [name for name in WAITS if name != "reschedule"]

    gateway.stop()
    try:
        with refused_port(gateway.port):
            time.sleep(60)  # The length of the outage is what this scenario is about.
            run.wait_for_logs(WAITS, "Still waiting: ", "No response while retrieving batch 'batch_outage'")
    finally:
        gateway.start()
    run.wait_for_logs(continuous, "Portkey is reachable again")

    old_key = standin.provider_key
    with standin.outage():  # No request may meet the new key on one side only.
        save_connection(airflow, standin, gateway, NEW_KEY)
        standin.provider_key = NEW_KEY
    try:

        def polls_with_new_key() -> int:
            return sum(request.headers.get("Authorization") == f"Bearer {NEW_KEY}" for request in standin.requests)

        wait_for("polls with the new key", lambda: polls_with_new_key() > 20)
        standin.script("batch_outage", "completed")
        states = run.wait(300)
    finally:
        standin.provider_key = old_key
        save_connection(airflow, standin, gateway)

    assert set(states.values()) == {"success"}, states
    for wait in WAITS:
        assert run.xcoms(wait) == expected_xcoms("batch_outage"), wait
    for wait in continuous:
        # One warning for each outage: of the gateway, and of the stand-in while the key changed.
        log = run.wait_for_log(wait, "Batch batch_outage is completed")
        assert log.count("Still waiting: ") <= 3, wait


class NotFound(BaseHTTPRequestHandler):
    """Answers as a Traefik does that has no backend for a route."""

    polls = 0

    def do_GET(self) -> None:
        type(self).polls += 1
        body = b"404 page not found\n"
        self.send_response(404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@contextmanager
def error_page(port: int) -> Iterator[None]:
    """Answer every request to a port with an error page."""
    with ThreadingHTTPServer(("127.0.0.1", port), NotFound) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_an_error_page_in_place_of_the_gateway_for_a_minute_fails_no_deferred_wait(
    airflow: Deployment, standin: StandIn, gateway: Gateway
) -> None:
    ids = [f"batch_page_{n}" for n in range(50)]
    for batch_id in ids:
        standin.script(batch_id, "in_progress")
    run = airflow.trigger("many", waits=[{"batch_id": batch_id} for batch_id in ids])
    waits = [f"wait[{n}]" for n in range(len(ids))]
    run.wait_until_deferred(waits, 600)

    gateway.stop()
    try:
        with error_page(gateway.port):
            time.sleep(60)  # The length of the redeployment is what this scenario is about.
    finally:
        gateway.start()
    assert NotFound.polls >= len(ids)
    states = run.states()
    assert {states[name] for name in waits} == {"deferred"}
    for batch_id in ids:
        standin.script(batch_id, "completed")

    states = run.wait(600)
    assert {states[name] for name in waits} == {"success"}, states
    run.wait_for_log(waits[0], "Still waiting: No API at this address (HTTP 404)", "Portkey is reachable again")
