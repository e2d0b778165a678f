"""What a team sees of the provider in its Airflow, on good days and bad ones: ``make live``."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from tests.live.dags.ends import MODES
from tests.live.dags.given_up import CREATES
from tests.live.dags.modes import WAYS
from tests.live.dags.waits import WAITS
from tests.live.deployment import AIRFLOW, IS_2, Deployment, need, nobody_at, wait_for
from tests.server.gateway import Gateway
from tests.server.standin import Answer, StandIn, batch_body

CONN_ID = "portkey_default"
#: Keys that only a scenario knows, so that finding one of them anywhere is a leak.
NEW_KEY = "sk-rotated-9876543210"


@pytest.fixture(scope="session")
def standin() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    with Gateway() as gateway:
        yield gateway


@pytest.fixture(scope="session")
def airflow(request: pytest.FixtureRequest, standin: StandIn, gateway: Gateway) -> Iterator[Deployment]:
    if any("page" in getattr(item, "fixturenames", ()) for item in request.session.items) and not IS_2:
        need("chromium", "chromium")  # now, rather than in some minutes
    home = Path(tempfile.mkdtemp(prefix="airflow-portkey-live-"))
    home.chmod(0o755)  # PostgreSQL runs as another user
    print(f"\nAirflow {AIRFLOW}, in {home}", flush=True)
    # Terminated, by timeout(1) for one, a run leaves no Airflow behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Deployment(home) as deployment:
        connect(deployment, standin, gateway)
        yield deployment
    if not request.session.testsfailed:
        shutil.rmtree(home)


def connect(airflow: Deployment, standin: StandIn, gateway: Gateway) -> None:
    headers = gateway.headers(standin)
    # The open gateway looks at no Portkey key. It is there for who looks for secrets.
    airflow.connect(CONN_ID, host=gateway.base_url, password=standin.api_key, extra={"headers": headers})


def expected(batch_id: str, status: str = "completed") -> dict[str, Any]:
    return {
        "return_value": batch_body(batch_id, status) | {"provider_status": status},
        "output_file_id": f"file-{batch_id}-output",
        "error_file_id": f"file-{batch_id}-error",
    }


def test_in_each_mode_the_same_xcoms_which_a_task_downstream_uses(airflow: Deployment, standin: StandIn) -> None:
    standin.script("batch_modes", "in_progress")

    run = airflow.trigger("modes", batch_id="batch_modes")
    deferred = {wait for wait, (_, kwargs) in WAYS.items() if kwargs.get("deferrable")}
    run.wait_until("deferred", deferred)
    wait_for("a look of each", lambda: all("Batch batch_modes is in_progress" in run.log(w) for w in WAYS), 120)
    standin.script("batch_modes", "completed")

    assert set(run.wait(300).values()) == {"success"}
    for wait, (_, kwargs) in WAYS.items():
        assert run.xcoms(wait) == expected("batch_modes"), wait
        assert run.xcoms(f"use_{wait}") == {"return_value": "file-batch_modes-output"}
        told = "Batch batch_modes is completed: 98 completed, 2 failed, 100 in all; "
        by_worker = {file.name: told in file.read_text() for file in run.files_of_logs(wait)}["attempt=1.log"]
        assert by_worker is not kwargs.get("end_from_trigger", False), wait
        log = run.log(wait)
        assert told in log, wait
        deferral = re.search(r"Deferring for up to (600|59\d) s, to look every 1 s\.", log)
        assert bool(deferral) is (wait in deferred), wait


def test_many_deferred_waits_hold_no_slot_and_end_right(airflow: Deployment, standin: StandIn) -> None:
    count = 50 if IS_2 else 200  # Airflow 2 spends more than a second of CPU on each
    ids = [f"batch_many_{n}" for n in range(count)]
    for batch_id in ids:
        standin.script(batch_id, "in_progress")

    # Every other one ends in the triggerer.
    run = airflow.trigger("many", waits=[{"batch_id": ids[n], "end_from_trigger": n % 2 == 1} for n in range(count)])
    waits = [f"wait[{n}]" for n in range(count)]
    run.wait_until("deferred", waits, 600)
    pool = airflow.get("pools/default_pool")
    assert (pool["occupied_slots"], pool["deferred_slots"]) == (0, count)
    # Nor do they take one of the eight workers, or this run would be slower for it.
    standin.script("batch_free", "completed")
    assert set(airflow.trigger("modes", batch_id="batch_free").wait(180).values()) == {"success"}
    for batch_id in ids:
        standin.script(batch_id, "completed")

    states = run.wait(600)
    assert {states[name] for name in waits} == {"success"}
    for n, batch_id in enumerate(ids):
        assert run.xcom("wait", "return_value", n) == expected(batch_id)["return_value"]
    for n in (0, count - 1):
        assert run.xcoms("wait", n) == expected(ids[n])


@pytest.mark.skipif(IS_2, reason="one triggerer runs on Airflow 2")
def test_another_triggerer_takes_over_from_one_that_is_killed(airflow: Deployment, standin: StandIn) -> None:
    standin.script("batch_taken_over", "in_progress")
    standin.script("batch_never", "in_progress")
    run = airflow.trigger("deadline", batch_id="batch_taken_over", never="batch_never")
    run.wait_until("deferred", [*WAITS, "hurried"])

    def holders() -> dict[str, int]:
        jobs = {name: ti["triggerer_job"] for name, ti in run.task_instances().items()}
        return {name: job["id"] for name, job in jobs.items() if job}

    wait_for("all waits in a triggerer", lambda: len(holders()) == 13, 30)
    # So late that a timeout that began anew with the takeover would end clearly after one that stays.
    began = datetime.fromisoformat(run.task_instances()["hurried"]["start_date"])
    time.sleep(max(0.0, 25 - (datetime.now(UTC) - began).total_seconds()))
    # One after the other, so that each wait is taken over, whichever of them had it.
    for number, job in enumerate(airflow.triggerer_jobs()):

        def are_taken_over(victim: int = job) -> bool:
            held = holders()
            return victim not in held.values() and {*WAITS} <= held.keys()

        airflow.kill(airflow.triggerers[number])
        airflow.start_triggerer()
        wait_for("the takeover", are_taken_over, 90)

    wait_for("the deadline", lambda: run.states()["hurried"] == "failed", 120)
    standin.script("batch_taken_over", "completed")
    states = run.wait()

    assert {states[name] for name in WAITS} == {"success"}
    hurried = run.task_instances()["hurried"]
    took = datetime.fromisoformat(hurried["end_date"]) - began
    assert 85 <= took.total_seconds() <= 110
    assert "timeout of 90 s was over" in run.log("hurried")
    for name, ti in run.task_instances().items():
        assert ti["try_number"] == 1
        assert run.log(name).count("Deferring for up to") == 1
        # What whoever ends the task logs.
        if name != "hurried":
            assert run.log(name).count("output_file_id=file-batch_taken_over-output") == 1


def test_an_outage_of_a_minute_and_a_rotated_key_end_no_wait(
    airflow: Deployment, standin: StandIn, gateway: Gateway
) -> None:
    standin.script("batch_outage", "in_progress")
    run = airflow.trigger("modes", batch_id="batch_outage")
    run.wait_until("deferred", ["deferred", "operator_deferred", "ends_from_trigger"], 120)
    wait_for("the others", lambda: {run.states()[name] for name in ("poke", "operator")} == {"running"}, 60)

    gateway.stop()
    with nobody_at(gateway.port):
        time.sleep(60)  # that long is what it is about
    gateway.start()
    seen = len(standin.requests)
    wait_for("looks after the outage", lambda: len(standin.requests) > seen + 20)

    old_key = standin.provider_key
    headers = gateway.headers(standin) | {"Authorization": f"Bearer {NEW_KEY}"}
    with standin.outage():  # so that none of them meets one of the two without the other
        airflow.connect(CONN_ID, host=gateway.base_url, extra={"headers": headers})
        standin.provider_key = NEW_KEY
    try:
        # All but the rescheduled one, which may take its time.
        new = f"Bearer {NEW_KEY}"
        wait_for("the new key", lambda: sum(s.headers.get("Authorization") == new for s in standin.requests) > 20)
        standin.script("batch_outage", "completed")
        states = run.wait(300)
    finally:
        standin.provider_key = old_key
        connect(airflow, standin, gateway)

    assert set(states.values()) == {"success"}, states
    for wait in WAYS:
        assert run.xcoms(wait) == expected("batch_outage")
        log = run.log(wait)
        assert "No answer to retrieving batch 'batch_outage'" in log, wait
        # Told once, not at each look; a rescheduled sensor is a new process each time.
        if wait != "reschedule":
            assert log.count("The wait goes on.") <= 3
            assert "Portkey answers again" in log


@pytest.mark.parametrize("end", ["failed", "expired", "cancelled"])
def test_a_bad_end_fails_without_a_retry_or_skips(end: str, airflow: Deployment, standin: StandIn) -> None:
    batch_id = f"batch_{end}"
    standin.script(batch_id, "in_progress")

    run = airflow.trigger("ends", batch_id=batch_id)
    tasks = [f"{mode}{kind}" for mode in MODES for kind in ("", "_soft")]
    run.wait_until("deferred", ["deferred", "deferred_soft"])
    wait_for("a look of each", lambda: all(f"Batch {batch_id} is in_progress" in run.log(t) for t in tasks), 120)
    standin.script(batch_id, end)
    states = run.wait(240)

    body = batch_body(batch_id, end)
    for task in tasks:
        assert states[task] == ("skipped" if task.endswith("_soft") else "failed")
        assert run.task_instances()[task]["try_number"] == 1
        xcoms = run.xcoms(task)
        assert xcoms["return_value"]["status"] == end
        assert xcoms.get("output_file_id") == body["output_file_id"]
        assert xcoms.get("error_file_id") == body["error_file_id"]
        assert f"Batch {batch_id} is {end}" in run.log(task)


def test_a_timeout_fails_without_a_retry_or_skips_in_each_mode(airflow: Deployment, standin: StandIn) -> None:
    standin.script("batch_slow", "in_progress")

    run = airflow.trigger("late", batch_id="batch_slow")
    states = run.wait(240)

    began = datetime.fromisoformat(airflow.get(run.path)["start_date"])
    for mode in MODES:
        assert (states[mode], states[f"{mode}_soft"]) == ("failed", "skipped")
        for task in (mode, f"{mode}_soft"):
            ti = run.task_instances()[task]
            assert ti["try_number"] == 1
            assert 25 <= (datetime.fromisoformat(ti["end_date"]) - began).total_seconds() <= 75
            assert "timeout of 25 s was over" in run.log(task)


def test_what_a_person_does_to_a_waiting_task_cancels_nothing_and_hangs_nothing(
    airflow: Deployment, standin: StandIn
) -> None:
    standin.course = [(0, "in_progress")]
    standin.script("batch_person", "in_progress")
    standin.script("batch_doomed", "in_progress")
    told = [len(log) for log in airflow.triggerer_logs()]
    run = airflow.trigger("waits", batch_id="batch_person")
    run.wait_until("deferred", [*WAITS, "create"])
    doomed = airflow.trigger("waits", batch_id="batch_doomed")
    doomed.wait_until("deferred", [*WAITS, "create"])
    seen_before = len(standin.requests)

    run.clear("wait_0", "create")
    run.fail("wait_1")
    airflow.call("PATCH", doomed.path, json={"state": "failed"})  # a running one is not to be deleted
    airflow.call("DELETE", doomed.path)

    def looks_at_doomed() -> int:
        return sum("batch_doomed" in seen.raw_path for seen in standin.requests)

    def is_left_alone() -> bool:
        before = looks_at_doomed()
        time.sleep(3)  # each of its waits looks once a second
        return looks_at_doomed() == before

    wait_for("the deleted run's last look", is_left_alone)
    cleared = dict.fromkeys(WAITS, 1) | {"wait_0": 2, "create": 2}
    wait_for("the clear", lambda: {n: ti["try_number"] for n, ti in run.task_instances().items()} == cleared, 60)
    run.wait_until("deferred", ["wait_0", "create"])
    standin.script("batch_person", "completed")
    standin.script(run.xcoms("create")["batch_id"], "completed")
    states = run.wait()

    assert states == {name: "failed" if name == "wait_1" else "success" for name in states}
    # To clear the create made no other batch.
    assert {seen.method for seen in standin.requests[seen_before:]} == {"GET"}
    logs = [log[before:] for log, before in zip(airflow.triggerer_logs(), told, strict=True)]
    logs += [file.read_text() for file in (*run.files_of_logs(), *doomed.files_of_logs()) if ".trigger." in file.name]
    assert len(logs) > 2 * len(WAITS)
    bad = r'Traceback|Unclosed|\[error |"level":"(?:error|critical)"| ERROR - |raised an exception'
    assert not re.findall(bad, "".join(logs))


def test_the_whole_loop_from_records_to_answers(airflow: Deployment, standin: StandIn, tmp_path: Path) -> None:
    standin.course = [(0, "validating"), (1, "completed")]
    paid = len(standin.batches)

    run = airflow.trigger("answer_records", folder=str(tmp_path), model="m")
    states = run.wait(300)

    assert set(states.values()) == {"success"}, states
    [batch] = standin.batches[paid:]
    assert run.xcoms("create")["batch_id"] == batch.id
    assert "Deferring for up to" in run.log("create")
    manifest = run.xcoms("download")["return_value"]
    assert (manifest["counts_match"], manifest["missing"], manifest["output"]["lines"]) == (True, [], 3)
    answers = [(n, f"Answer to {n}") for n in "123"]
    assert [(row["id"], row["answer"]) for row in run.xcoms("join")["return_value"]] == answers

    run.clear(*states)
    wait_for("the clear", lambda: run.task_instances()["create"]["try_number"] == 2, 120)
    states = run.wait(300)

    assert set(states.values()) == {"success"}, states
    assert "Going on with what an earlier attempt of this task created" in run.log("create", 2)
    assert standin.batches[paid:] == [batch]
    assert [(row["id"], row["answer"]) for row in run.xcoms("join")["return_value"]] == answers


def test_no_kill_makes_a_create_pay_twice(airflow: Deployment, standin: StandIn, tmp_path: Path) -> None:
    standin.course = [(0, "in_progress"), (4, "completed")]
    paid = len(standin.batches)
    # Time for a kill before a batch is there, and between that and the answer.
    standin.fail("POST", "/v1/batches", *[Answer(delay=0.5)] * 10)
    standin.fail("POST", "/v1/batches", *[Answer(delay=0.5)] * 10, after=True)

    run = airflow.trigger("killed", folder=str(tmp_path))
    # From before the upload until it waits.
    moments = {n: random.uniform(0, 4) for n in range(20)}
    print("killed after", *(f"{moment:.2f}" for moment in moments.values()), "s")
    begun: dict[int, tuple[float, int]] = {}

    def all_killed() -> bool:
        for n in moments.keys() - begun.keys():
            with suppress(FileNotFoundError, ValueError):
                begun[n] = time.monotonic(), int((tmp_path / f"{n}-1").read_text())
        for n, (at, pid) in begun.items():
            if n in moments and time.monotonic() - at >= moments[n]:
                os.kill(pid, signal.SIGKILL)
                del moments[n]
        return not moments

    wait_for("twenty kills", all_killed, 300, 0.02)
    states = run.wait(300)

    assert set(states.values()) == {"success"}, states
    batches = standin.batches[paid:]
    keys = [batch.body["metadata"]["airflow_attempt_key"] for batch in batches]
    assert (len(keys), len(set(keys))) == (20, 20)
    assert sorted(run.xcoms("create", n)["batch_id"] for n in range(20)) == sorted(batch.id for batch in batches)
    logs = [file.read_text(errors="replace") for file in run.files_of_logs("create")]
    assert any("Going on with what an earlier attempt of this task created" in log for log in logs)
    # Airflow 2 may count more of them than there were.
    tries = [ti["try_number"] for name, ti in run.task_instances().items() if name != "requests"]
    assert min(tries) > 1


def test_a_create_that_somebody_gives_up_cancels_its_batch_as_asked(airflow: Deployment, standin: StandIn) -> None:
    standin.course = [(0, "in_progress")]
    cancelled = len(standin.cancelled)
    on_worker, in_trigger = ["on_worker", "on_worker_keeping"], ["in_trigger", "in_trigger_asked"]

    run = airflow.trigger("given_up")
    run.wait_until("deferred", in_trigger)
    wait_for("their batches", lambda: all("batch_id" in run.xcoms(name) for name in CREATES), 60)
    ids = {name: run.xcoms(name)["batch_id"] for name in CREATES}
    for name in (*on_worker, *in_trigger):
        run.fail(name)
    states = run.wait()

    wanted = {"on_worker", "beyond_timeout", "beyond_execution_timeout"}
    if not IS_2:  # which does not tell a trigger
        wanted.add("in_trigger_asked")
    assert set(states.values()) == {"failed"}, states
    assert {ti["try_number"] for ti in run.task_instances().values()} == {1}
    wait_for("the cancels", lambda: len(standin.cancelled) - cancelled >= len(wanted), 30)
    time.sleep(5)  # for one that nobody asked for
    assert sorted(standin.cancelled[cancelled:]) == sorted(ids[name] for name in wanted)
    for name in wanted:
        assert "sked for it to be cancelled, since" in run.log(name), name


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of Debian's Chromium."""
    sync_api = import_module("playwright.sync_api")  # what linters run in has none
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("chromium", "chromium"), args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1100, "height": 1180})
        browser.close()


@pytest.mark.skipif(IS_2, reason="its form is another")
def test_a_connection_typed_into_the_form_is_tested_and_used(airflow: Deployment, standin: StandIn, page: Any) -> None:
    pictures = Path(os.environ.get("PICTURES", airflow.home))
    page.goto(f"{airflow.url}/connections")
    page.get_by_role("button", name="Add Connection").click()
    page.locator("input[name=connection_id]").fill("portkey_typed")
    page.get_by_role("combobox").first.fill("portkey")
    page.get_by_role("option", name="portkey").first.click()
    page.locator("input[name=host]").fill("https://api.portkey.ai/v1")
    page.locator("input[name=port]").fill("443")
    page.locator("input[name=password]").fill(standin.api_key)
    page.get_by_role("button", name="Extra Fields", exact=True).click()
    page.locator("[name=element_virtual_key]").fill(standin.virtual_key)
    page.wait_for_timeout(1000)  # it unfolds
    page.screenshot(path=pictures / "connection-form.png")
    page.get_by_role("button", name="Standard Fields").click()
    page.locator("input[name=host]").fill("http://127.0.0.1")
    page.locator("input[name=port]").fill(str(standin.port))
    page.get_by_role("button", name="Save").click()

    row = page.get_by_role("row", name="portkey_typed")
    with page.expect_response(lambda response: response.url.endswith("/connections/test")) as told:
        row.get_by_role("button", name="Test Connection").click()
    words = f"{standin.base_url} accepts the key and the provider, and lists batches."
    assert told.value.json() == {"status": True, "message": words}

    standin.script("batch_typed", "in_progress")
    run = airflow.trigger("modes", batch_id="batch_typed", conn_id="portkey_typed")
    run.wait_until("deferred", ["deferred"], 120)
    wait_for("a look of the trigger", lambda: "is in_progress" in run.log("deferred"), 30)
    page.goto(f"{airflow.url}/{run.path.replace('dagRuns', 'runs')}/tasks/deferred")
    page.get_by_text("Deferring for up to").first.wait_for()
    page.screenshot(path=pictures / "waiting-task.png")
    standin.script("batch_typed", "completed")
    assert set(run.wait(180).values()) == {"success"}


def test_no_secret_is_in_database_logs_or_answers(airflow: Deployment, standin: StandIn) -> None:
    secrets = [standin.provider_key, standin.api_key, NEW_KEY]
    # Some columns are binary, which a dump has in hexadecimal.
    secrets += [secret.encode().hex() for secret in secrets]
    standin.course = [(0, "in_progress")]
    standin.script("batch_stored", "in_progress")
    run = airflow.trigger("waits", batch_id="batch_stored")
    run.wait_until("deferred", [*WAITS, "create"])
    # A trigger's row goes as soon as it has fired.
    triggers, dump = airflow.postgres.triggers(), airflow.postgres.dump()
    standin.script("batch_stored", "completed")
    standin.script(run.xcoms("create")["batch_id"], "completed")
    assert set(run.wait().values()) == {"success"}

    assert sum("batch_stored" in kwargs for kwargs in triggers) == len(WAITS)
    assert not [s for s in secrets if any(s in kwargs for kwargs in triggers)]
    assert not [s for s in secrets if s in dump or s in airflow.postgres.dump()]
    assert sum("batch_stored" in answer for answer in airflow.answers) >= 2
    assert not [s for s in secrets if any(s in answer for answer in airflow.answers)]
    leaks = [p.name for p in airflow.log_files() if any(s in p.read_text(errors="replace") for s in secrets)]
    assert not leaks


def test_it_is_the_wheel_that_ran(airflow: Deployment) -> None:
    installed = distribution("airflow-provider-portkey")
    versions = {p["package_name"]: p["version"] for p in airflow.get("providers", limit=100)["providers"]}
    assert versions["airflow-provider-portkey"] == installed.version
    assert json.loads(installed.read_text("direct_url.json") or "{}")["url"].endswith(".whl")
