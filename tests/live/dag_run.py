"""One run of a DAG, through Airflow's REST API and its log files."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.live.host import wait_for

if TYPE_CHECKING:
    from tests.live.deployment import Deployment


class DagRun:
    """One run of a DAG.

    A mapped task instance is named ``task_id[map_index]``, everywhere.

    Airflow changes the state of a task before its worker has written the last lines of the log, so a log that is read
    once may be incomplete. Only :meth:`wait_for_log` and its variants read logs, and they return when the
    expected words are there.
    """

    def __init__(self, deployment: Deployment, dag_id: str, run_id: str) -> None:
        self._deployment = deployment
        self.dag_id = dag_id
        self.run_id = run_id
        self.path = f"dags/{dag_id}/dagRuns/{run_id}"

    def page_url(self, task_id: str) -> str:
        """Return the address of a task's page in Airflow 3, which shows its log."""
        return f"{self._deployment.url}/dags/{self.dag_id}/runs/{self.run_id}/tasks/{task_id}"

    def task_instances(self) -> dict[str, dict[str, Any]]:
        """Return the task instances by name."""
        found: list[dict[str, Any]] = []
        total = 1
        while len(found) < total:
            page = self._deployment.get(f"{self.path}/taskInstances", limit=100, offset=len(found))
            found, total = found + page["task_instances"], page["total_entries"]
        return {ti["task_id"] + (f"[{ti['map_index']}]" if ti["map_index"] >= 0 else ""): ti for ti in found}

    def states(self) -> dict[str, str]:
        return {name: ti["state"] for name, ti in self.task_instances().items()}

    def wait(self, timeout: float = 180.0) -> dict[str, str]:
        """Wait until the run has ended, and return the states of its tasks."""

        def has_ended() -> bool:
            return bool(self._deployment.get(self.path)["state"] in ("success", "failed"))

        self.wait_for("the end of the run", has_ended, timeout)
        return self.states()

    def wait_for_state(self, state: str, tasks: Iterable[str], timeout: float = 120.0) -> None:
        """Wait until all ``tasks`` are in ``state``."""
        wanted = set(tasks)

        def is_reached() -> bool:
            states = self.states()
            return {states.get(name) for name in wanted} == {state}

        self.wait_for(state, is_reached, timeout)

    def wait_until_deferred(self, tasks: Iterable[str], timeout: float = 120.0) -> None:
        """Wait until all ``tasks`` are deferred and the scheduler knows that their workers are done with them.

        Airflow 3 fails a task that resumes while the scheduler still expects its worker to report.
        """
        wanted = set(tasks)
        self.wait_for_state("deferred", wanted, timeout)
        instances = self.task_instances()
        attempts = {(ti["task_id"], ti["map_index"], ti["try_number"]) for ti in map(instances.__getitem__, wanted)}
        self.wait_for("the workers' reports", lambda: attempts <= self._deployment.reported_attempts(self.run_id), 60)

    def wait_for(self, what: str, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until ``condition`` is true; the error of a timeout names the tasks' states."""
        try:
            wait_for(f"{self.dag_id}: {what}", condition, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; states: {self.states()}") from None

    def wait_for_log(self, task: str, *words: str, attempt: int = 1, timeout: float = 60.0) -> str:
        """Wait until all ``words`` are in the log of an attempt, as the REST API returns it; return the log."""
        task_id, _, map_index = task.rstrip("]").partition("[")
        path = f"{self.path}/taskInstances/{task_id}/logs/{attempt}"
        parameters = {"map_index": int(map_index or -1), "full_content": True}
        log = ""

        def has_words() -> bool:
            nonlocal log
            headers = {"Accept": "application/json"}
            content = self._deployment.call("GET", path, params=parameters, headers=headers).json()["content"]
            log = _as_text(content)
            return all(each in log for each in words)

        try:
            wait_for(f"the log of {task}", has_words, timeout)
        except TimeoutError as error:
            missing = [each for each in words if each not in log]
            raise AssertionError(f"{error}: {missing} is missing in\n{log[-5000:]}") from None
        return log

    def wait_for_logs(self, tasks: Iterable[str], *words: str, timeout: float = 60.0) -> None:
        """Wait until all ``words`` are in the log of each task's first attempt."""
        for task in tasks:
            self.wait_for_log(task, *words, timeout=timeout)

    def wait_for_log_file(self, task_id: str, pattern: str, words: str, timeout: float = 60.0) -> str:
        """Wait until ``words`` are in a log file of a task whose name matches ``pattern``; return that file's text.

        A worker writes ``attempt=1.log``, a trigger ``attempt=1.log.trigger.2.log``.
        """

        def text_with_words() -> str | None:
            texts = [file.read_text(errors="replace") for file in self.log_files(task_id, pattern)]
            return next((text for text in texts if words in text), None)

        return wait_for(f"{words!r} in {pattern} of {task_id}", text_with_words, timeout) or ""

    def log_files(self, task_id: str = "*", pattern: str = "*.log") -> list[Path]:
        """Return the log files whose names match ``pattern``."""
        folder = self._deployment.home / "logs" / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        return list(folder.glob(f"task_id={task_id}/**/{pattern}"))

    def clear(self, *task_ids: str) -> None:
        """Clear tasks, as a person does."""
        body = {"dag_run_id": self.run_id, "task_ids": task_ids, "only_failed": False}
        body |= {"dry_run": False, "reset_dag_runs": True}
        self._deployment.call("POST", f"dags/{self.dag_id}/clearTaskInstances", json=body)

    def mark_failed(self, task_id: str) -> None:
        """Mark a task as failed, as a person does."""
        body = {"new_state": "failed"} | ({"dry_run": False} if self._deployment.is_airflow_2 else {})
        self._deployment.call("PATCH", f"{self.path}/taskInstances/{task_id}", json=body)

    def delete(self) -> None:
        """Mark the run as failed, then delete it: Airflow deletes no run that is running."""
        self._deployment.call("PATCH", self.path, json={"state": "failed"})
        self._deployment.call("DELETE", self.path)

    def xcoms(self, task: str) -> dict[str, Any]:
        """Return what a task has in XCom, by key."""
        task_id, _, map_index = task.rstrip("]").partition("[")
        path = f"{self.path}/taskInstances/{task_id}/xcomEntries"
        entries = self._deployment.get(path, map_index=int(map_index or -1))["xcom_entries"]
        return {entry["key"]: self.xcom(task, entry["key"]) for entry in entries}

    def xcom(self, task: str, key: str = "return_value") -> Any:
        """Return one XCom of a task."""
        task_id, _, map_index = task.rstrip("]").partition("[")
        path = f"{self.path}/taskInstances/{task_id}/xcomEntries/{key}"
        value = self._deployment.get(path, map_index=int(map_index or -1))["value"]
        if self._deployment.is_airflow_2 and re.match(r"[\[{]|None$", value or ""):
            # Airflow 2 returns a string as it is, and any other value as Python's repr.
            return ast.literal_eval(value)
        return value


def _as_text(content: Any) -> str:
    """Return a log as text. Airflow 3 returns structured lines, Airflow 2 the repr of a list of (host, text)."""
    if isinstance(content, str):
        lines = [text for _, text in ast.literal_eval(content)]
    else:
        lines = [json.dumps(line, ensure_ascii=False) if isinstance(line, Mapping) else str(line) for line in content]
    return "\n".join(lines)
