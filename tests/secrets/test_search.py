"""The search itself: it finds a planted secret in every place where these tests search."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_portkey.hooks.portkey import PortkeyHook
from airflow_provider_portkey.sensors.batch import PortkeyBatchSensor
from airflow_provider_portkey.triggers.batch import PortkeyBatchTrigger
from tests.conftest import files_with
from tests.secrets.scene import Scene
from tests.support.evidence import API_KEY, AWS_KEY, REVEALING_LENGTH, SECRETS


def hidden_context(secret: str) -> BaseException:
    """Return an exception whose context has a secret that no traceback shows."""
    try:
        try:
            raise ValueError(secret)
        except ValueError:
            raise RuntimeError("nothing to see") from None
    except RuntimeError as error:
        return error


PLANTS: dict[str, Callable[[Scene, str], None]] = {
    "a sensor's log": lambda scene, secret: PortkeyBatchSensor(task_id="x", batch_id="b").log.debug("It is %s", secret),
    "a trigger's log": lambda scene, secret: PortkeyBatchTrigger("b").log.debug("It is %s", secret),
    "a hook's log": lambda scene, secret: PortkeyHook().log.debug("It is %s", secret),
    "a library's log": lambda scene, secret: logging.getLogger("urllib3.connectionpool").debug("It is %s", secret),
    "a new logger": lambda scene, secret: logging.getLogger("aiohttp.client.planted").debug("It is %s", secret),
    "the hidden context of an exception": lambda scene, secret: scene.evidence.add_error(hidden_context(secret)),
    "an object": lambda scene, secret: scene.evidence.add_object("x", {"key": secret}),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
@pytest.mark.parametrize("name", SECRETS)
def test_the_search_finds_a_planted_secret(plant: Callable[[Scene, str], None], name: str, scene: Scene) -> None:
    assert scene.evidence.leaks() == []
    plant(scene, SECRETS[name])
    assert any(leak.startswith(f"{name} in ") for leak in scene.evidence.leaks())


def test_the_search_finds_the_first_characters_of_a_secret(scene: Scene) -> None:
    scene.evidence.add("x", f"The key {API_KEY[:REVEALING_LENGTH]}… is wrong")
    assert len(scene.evidence.leaks()) == 1


def test_the_search_finds_a_secret_in_a_field_of_the_batch(scene: Scene) -> None:
    scene.wait({"status": "completed", "output_file_id": f"file-{API_KEY}"})
    places = {leak.partition(" in ")[2].partition(":")[0] for leak in scene.evidence.leaks()}
    assert {"XCom", "return value"} <= places
    assert ("event" in places) == (scene.stack == "aiohttp")


def test_the_search_finds_a_planted_secret_in_airflow_s_files(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "task.log").write_text(f"key={API_KEY}")
    (tmp_path / "airflow.db").write_bytes(b"\0SQLite")
    assert files_with([API_KEY, AWS_KEY], tmp_path) == ["logs/task.log"]
    assert files_with([AWS_KEY], tmp_path) == []
