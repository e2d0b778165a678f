"""A double of Airflow's task instance."""

from __future__ import annotations

from typing import Any


class TaskInstance:
    """Stands in for Airflow's task instance, in its first attempt: keeps what a task pushes to XCom."""

    try_number = 1

    def __init__(self) -> None:
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    @property
    def context(self) -> Any:
        return {"ti": self}
