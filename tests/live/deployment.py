"""
A whole Airflow on PostgreSQL, in its own folder on loopback, driven through its REST API.

It runs the Airflow that is installed for this interpreter: Airflow 3 with two triggerers, or Airflow 2 with one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import requests

from tests.live.dag_run import DagRun
from tests.live.host import free_port, wait_for
from tests.live.postgres import FERNET_KEY, Postgres

AIRFLOW = version("apache-airflow")
IS_AIRFLOW_2 = AIRFLOW.startswith("2.")
DAG_FILES = [
    *Path(__file__).with_name("dags").glob("*.py"),
    Path(__file__).parents[2] / "example_dags" / "answer_records.py",
]
DAG_IDS = {"abandoned", "answer_records", "bad_ends", "killed", "many", "modes", "takeover", "terminated", "timeouts"}
DAG_IDS |= {"to_s3", "waits"}
#: A line of the scheduler's log: a worker has reported that it is done with an attempt.
_REPORT = re.compile(
    r"Received executor event with state success for task instance TaskInstanceKey\(dag_id='[^']*', "
    r"task_id='([^']*)', run_id='([^']*)', try_number=(\d+), map_index=(-?\d+)"
)


class Deployment:
    """Airflow's processes and a client of its REST API."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.is_airflow_2 = IS_AIRFLOW_2
        self.postgres = Postgres(home / "postgres")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.triggerers: list[subprocess.Popen[bytes]] = []
        #: What the API returned about DAG runs, for the search for secrets. What it returns about connections is
        #: Airflow's own responsibility.
        self.responses: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._session = requests.Session()
        self._session.trust_env = False
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "NO_PROXY": "*",
            "NO_COLOR": "1",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "256",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.postgres.dsn,
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__AUTH_BACKENDS": "airflow.api.auth.backend.basic_auth",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret on loopback, with the 64 characters that Airflow 3 requires",
            "AIRFLOW__WEBSERVER__SECRET_KEY": "a secret on loopback",
            "AIRFLOW__WEBSERVER__WORKERS": "1",
            "AIRFLOW__API__WORKERS": "1",
            # These intervals are long by default, and the scenarios would wait for them. The heartbeat's interval is
            # also the time after which Airflow 3 notices that a deferred task has left its worker.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
        }

    def __enter__(self) -> Deployment:
        (self.home / "dags").mkdir()
        for file in DAG_FILES:
            shutil.copy(file, self.home / "dags")
        try:
            self.postgres.start()
            self._airflow("db", "migrate")
            if IS_AIRFLOW_2:
                names = ["--username", "admin", "--firstname", "A", "--lastname", "B", "--email", "admin@example.com"]
                self._airflow("users", "create", *names, "--password", "admin", "--role", "Admin")
                self._session.auth = ("admin", "admin")
            server = ["webserver", "--hostname"] if IS_AIRFLOW_2 else ["api-server", "--host"]
            self._start(*server, "127.0.0.1", "--port", str(self.port))
            self._start("scheduler")
            if not IS_AIRFLOW_2:
                self._start("dag-processor")
            wait_for("the API server", self._is_reachable, 120)
            if not IS_AIRFLOW_2:
                token = self._session.get(f"{self.url}/auth/token", timeout=30).json()["access_token"]
                self._session.headers["Authorization"] = f"Bearer {token}"
            for _ in range(1 if IS_AIRFLOW_2 else 2):
                self.start_triggerer()
            wait_for("the DAGs", lambda: {dag["dag_id"] for dag in self.get("dags")["dags"]} >= DAG_IDS, 120)
            wait_for("the health of all components", self._is_healthy, 120)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        # A second Ctrl-C must not interrupt this, or processes would be left behind.
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for process in self._processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
            for process in self._processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                self.kill(process)
        finally:
            self.postgres.stop()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process and everything that it started, which runs in its session."""
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            with suppress(ProcessLookupError):
                if os.getsid(pid) == process.pid:
                    os.kill(pid, signal.SIGKILL)
        process.wait()

    def start_triggerer(self) -> None:
        """Start one more triggerer and wait for its job, so that jobs and processes have the same order."""
        count = len(self.triggerers)
        env = {"AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port())}
        self.triggerers.append(self._start("triggerer", log=f"triggerer-{count}", **env))
        if not IS_AIRFLOW_2:
            wait_for("the triggerer's job", lambda: len(self.triggerer_jobs()) > count, 60)

    def _airflow(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "airflow", *arguments]
        done = subprocess.run(command, cwd=self.home, env=self._env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"airflow {' '.join(arguments)}: {done.stderr[-3000:]}")

    def _start(self, component: str, *arguments: str, log: str = "", **env: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", component, *arguments],
            cwd=self.home,
            env=self._env | env,
            stdin=subprocess.DEVNULL,
            stdout=(self.home / f"{log or component}.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def _is_reachable(self) -> bool:
        try:
            return self._health().status_code == 200
        except requests.ConnectionError:
            return False

    def _health(self) -> requests.Response:
        return self._session.get(f"{self.url}{'/health' if IS_AIRFLOW_2 else '/api/v2/monitor/health'}", timeout=30)

    def _is_healthy(self) -> bool:
        components = self._health().json().values()
        statuses = [component["status"] for component in components if component["status"]]
        return len(statuses) >= 3 and set(statuses) == {"healthy"}

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        """Call the public REST API; a response that is not a success raises an error with its text."""
        response = self._session.request(
            method, f"{self.url}/api/{'v1' if IS_AIRFLOW_2 else 'v2'}/{path}", timeout=60, **kwargs
        )
        if not response.ok:
            raise RuntimeError(f"{method} {path}: {response.status_code} {response.text[:2000]}")
        if "/dagRuns" in path:
            self.responses.append(response.text)
        return response

    def get(self, path: str, **params: Any) -> Any:
        """Return what a GET of the REST API returns."""
        return self.call("GET", path, params=params).json()

    def save_connection(self, conn_id: str, **fields: Any) -> None:
        """Create or change a connection."""
        body = {"connection_id": conn_id, "conn_type": "portkey", **fields, "extra": json.dumps(fields["extra"])}
        exists = any(c["connection_id"] == conn_id for c in self.get("connections", limit=100)["connections"])
        self.call("PATCH" if exists else "POST", f"connections/{conn_id}" if exists else "connections", json=body)

    def trigger(self, dag_id: str, **conf: Any) -> DagRun:
        """Start a run."""
        body = {"conf": conf} if IS_AIRFLOW_2 else {"conf": conf, "logical_date": None}
        run = self.call("POST", f"dags/{dag_id}/dagRuns", json=body).json()
        return DagRun(self, dag_id, run["dag_run_id"])

    def triggerer_jobs(self) -> list[int]:
        """Return the ids of the triggerers' jobs, in the order in which they were started."""
        return sorted(job["id"] for job in self.get("jobs", job_type="TriggererJob")["jobs"])

    def triggerer_logs(self) -> list[str]:
        """Return what each triggerer has printed."""
        files = [self.home / f"triggerer-{number}.log" for number in range(len(self.triggerers))]
        return [file.read_text(errors="replace") for file in files]

    def reported_attempts(self, run_id: str) -> set[tuple[str, int, int]]:
        """Return (task id, map index, try number) of a run's attempts whose workers have reported to the scheduler."""
        log = (self.home / "scheduler.log").read_text(errors="replace")
        return {
            (task_id, int(map_index), int(try_number))
            for task_id, found_run_id, try_number, map_index in _REPORT.findall(log)
            if found_run_id == run_id
        }

    def log_files(self) -> Iterable[Path]:
        """Return all log files: of the components and of the tasks."""
        components = [*self.home.glob("*.log"), self.postgres.folder / "server.log"]
        return [*components, *(p for p in (self.home / "logs").rglob("*") if p.is_file())]
