"""The stand-in as a server: what it records, outages, TLS, and its command line."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import trustme

from tests.conftest import REPO
from tests.server.__main__ import BATCHES
from tests.server.client import HOSTED, get
from tests.server.standin import Answer, StandIn


def test_requests_are_recorded_as_they_were_sent(standin: StandIn) -> None:
    before = time.monotonic()
    get(f"{standin.base_url}/batches/a%2Fb%20c", HOSTED | {"X-Custom": "1"})
    [seen] = standin.requests
    assert (seen.method, seen.raw_path) == ("GET", "/v1/batches/a%2Fb%20c")
    assert seen.headers["x-custom"] == seen.headers["X-CUSTOM"] == "1"
    assert before <= seen.at <= time.monotonic()


def test_connections_are_counted_and_not_requests(standin: StandIn, session: requests.Session) -> None:
    for _ in range(3):
        session.get(f"{standin.base_url}/batches/x")
    assert standin.connections == 1
    get(f"{standin.base_url}/batches/x", HOSTED)
    assert standin.connections == 2


def test_an_outage_refuses_connections_and_ends(standin: StandIn, session: requests.Session) -> None:
    url = f"{standin.base_url}/batches/batch_1"
    standin.script("batch_1", "completed")
    session.get(url)
    for _ in range(2):
        with standin.outage(), pytest.raises(requests.ConnectionError, match="refused"):
            session.get(url)
        assert session.get(url).status_code == 200


def test_an_outage_aborts_open_connections(standin: StandIn, session: requests.Session) -> None:
    standin.script("batch_1", Answer(body=b"0123456789", how="trickle", pause=60))
    response = session.get(f"{standin.base_url}/batches/batch_1", stream=True)
    with response, standin.outage(), pytest.raises(requests.exceptions.ChunkedEncodingError):
        list(response.iter_content(1))


def test_it_serves_tls(session: requests.Session, tmp_path: Path) -> None:
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    with StandIn(ssl_context=context) as standin:
        standin.script("batch_1", "completed", Answer(how="reset"))
        url = f"{standin.base_url}/batches/batch_1"
        assert url.startswith("https://127.0.0.1:")
        assert session.get(url, verify=str(tmp_path / "ca.pem")).json()["status"] == "completed"
        with pytest.raises(requests.ConnectionError):
            session.get(url, verify=str(tmp_path / "ca.pem"))
        with pytest.raises(requests.exceptions.SSLError):
            get(url, HOSTED)


def test_the_command_line_serves_batches_until_interrupted() -> None:
    command = [sys.executable, "-m", "tests.server"]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().split()[-1]
        found = [get(f"{base_url}/batches/{batch_id}", HOSTED).json() for batch_id in ("batch_demo", *BATCHES)]
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()
    assert [batch["status"] for batch in found] == ["validating", *BATCHES.values()]
    assert process.returncode == 0
