"""What a person sees in Airflow 3's pages: the connection's form, and the logs of tasks that wait and that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.live.deployment import IS_AIRFLOW_2, Deployment
from tests.server.standin import StandIn

pytestmark = pytest.mark.skipif(IS_AIRFLOW_2, reason="Airflow 2 has other pages")

#: Airflow shows the text of an exception in one element, with the line breaks of the text.
RIGHT_EDGE_OF_FIRST_LINE = """element => {
    const range = document.createRange();
    range.selectNodeContents(element);
    const rectangles = [...range.getClientRects()];
    const top = Math.min(...rectangles.map(each => each.top));
    return Math.max(...rectangles.filter(each => each.top === top).map(each => each.right));
}"""


def test_a_connection_typed_into_the_form_passes_its_test_and_serves_a_wait(
    airflow: Deployment, standin: StandIn, page: Any, save_screenshot: Callable[..., None]
) -> None:
    page.goto(f"{airflow.url}/connections")
    page.get_by_role("button", name="Add Connection").click()
    page.locator("input[name=connection_id]").fill("portkey_typed")
    page.get_by_role("combobox").first.fill("portkey")
    page.get_by_role("option", name="portkey").first.click()
    page.locator("input[name=host]").fill("https://api.portkey.ai/v1")
    page.locator("input[name=port]").fill("443")
    page.locator("input[name=password]").fill(standin.api_key)
    page.get_by_role("button", name="Extra Fields", exact=True).click()
    virtual_key = page.locator("[name=element_virtual_key]")
    virtual_key.fill(standin.virtual_key)
    # The fields unfold in an animation, which the screenshot must not show.
    virtual_key.element_handle().wait_for_element_state("stable")
    save_screenshot("connection-form.png")
    page.get_by_role("button", name="Standard Fields").click()
    page.locator("input[name=host]").fill("http://127.0.0.1")
    page.locator("input[name=port]").fill(str(standin.port))
    page.get_by_role("button", name="Save").click()

    row = page.get_by_role("row", name="portkey_typed")
    with page.expect_response(lambda response: response.url.endswith("/connections/test")) as response:
        row.get_by_role("button", name="Test Connection").click()
    text = f"{standin.base_url} accepts the key and the provider, and lists batches."
    assert response.value.json() == {"status": True, "message": text}

    standin.script("batch_typed", "in_progress")
    run = airflow.trigger("modes", batch_id="batch_typed", conn_id="portkey_typed")
    run.wait_until_deferred(["deferred"])
    run.wait_for_log("deferred", "Batch batch_typed is in_progress")
    page.goto(run.page_url("deferred"))
    page.get_by_text("Deferring: polling every").first.wait_for()
    save_screenshot("waiting-task.png", clip={"x": 0, "y": 0, "width": 1100, "height": 520})
    standin.script("batch_typed", "completed")
    assert set(run.wait().values()) == {"success"}


def test_the_log_of_a_task_with_a_wrong_key_shows_cause_and_remedy_on_one_uncut_line(
    airflow: Deployment, standin: StandIn, page: Any, save_screenshot: Callable[..., None]
) -> None:
    extra = {"virtual_key": standin.virtual_key}
    airflow.save_connection("pk_wrongkey", host=standin.url, password="pk-wrong-key", extra=extra)
    standin.script("batch_wrong_key", "in_progress")
    run = airflow.trigger("modes", batch_id="batch_wrong_key", conn_id="pk_wrongkey")
    assert run.wait()["deferred"] == "failed"
    first_line = "API key rejected by Portkey (HTTP 401): check the password of connection 'pk_wrongkey'"
    run.wait_for_log("deferred", first_line)

    page.set_viewport_size({"width": 1600, "height": 760})
    page.goto(run.page_url("deferred"))
    text = page.get_by_text(first_line).first
    text.wait_for()
    assert text.evaluate(RIGHT_EDGE_OF_FIRST_LINE) < 1570  # The log ends there.
    # Without the traceback, which has the paths of this machine.
    text.evaluate("element => { element.closest('details').open = false }")
    text.element_handle().wait_for_element_state("stable")
    save_screenshot("failed-task.png", clip={"x": 400, "y": 60, "width": 1190, "height": 410})
