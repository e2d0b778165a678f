"""
A whole Airflow on PostgreSQL, in a folder of its own on loopback, and its REST API as a user's program sees it.

It runs what is installed for this interpreter: Airflow 3 with two triggerers, or Airflow 2.
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.fernet import Fernet

AIRFLOW = version("apache-airflow")
IS_2 = AIRFLOW.startswith("2.")
IS_ROOT = os.geteuid() == 0
DAGS = [
    *Path(__file__).with_name("dags").glob("*.py"),
    Path(__file__).parents[2] / "example_dags" / "answer_records.py",
]
DAG_IDS = {"answer_records", "deadline", "ends", "given_up", "killed", "late", "many", "modes", "waits"}
FERNET_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def free_port() -> int:
    """A port below those that the system gives to clients, so that none takes it before its server does."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@contextmanager
def nobody_at(port: int) -> Iterator[None]:
    """Within it connections to the port are refused, and nobody else is given it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        yield


def wait_for(what: str, holds: Callable[[], Any], timeout: float = 60.0, pause: float = 0.5) -> Any:
    """Return what ``holds`` returns as soon as that is true."""
    deadline = time.monotonic() + timeout
    while not (result := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(pause)
    return result


def search_path() -> str:
    """Where programs are: Debian keeps PostgreSQL's out of PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return os.pathsep.join([*map(str, folders), os.environ["PATH"]])


def need(program: str, package: str) -> str:
    """Return where a program is; root gets it from apt, and for others the run ends here."""
    apt = shutil.which("apt-get")
    if shutil.which(program, path=search_path()) is None and IS_ROOT and apt:
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            subprocess.run(
                [apt, "-qq", *command],
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=False,
                timeout=600,
            )
    found = shutil.which(program, path=search_path())
    if found is None:
        pytest.exit(f"make live needs {program}: as root, apt-get install {package}", returncode=1)
    return found


class Postgres:
    """A server with one empty database ``airflow``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        # It refuses to run as root.
        self._user = "postgres" if IS_ROOT else None

    @property
    def dsn(self) -> str:
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/airflow"

    def start(self) -> None:
        need("initdb", "postgresql")
        self.folder.mkdir()
        if self._user:
            shutil.chown(self.folder, self._user)
        self._do("initdb", "-D", "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off -c max_connections=300"
        self._do("pg_ctl", "-D", "data", "-w", "-l", "server.log", "-o", options, "start")
        self._do("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "airflow")

    def stop(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self._do("pg_ctl", "-D", "data", "-m", "immediate", "stop")

    def dump(self) -> str:
        """Return all that the database holds."""
        return self._do("pg_dump", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "airflow")

    def triggers(self) -> list[str]:
        """Return the arguments that it holds of each trigger: Airflow 3.3's as they are, Airflow 2's decrypted."""
        rows = self._do(
            *f"psql -h 127.0.0.1 -p {self.port} -U postgres -At airflow -c".split(),
            "select kwargs from trigger",
        )
        return [row if row.startswith("{") else Fernet(FERNET_KEY).decrypt(row).decode() for row in rows.splitlines()]

    def _do(self, *command: str) -> str:
        env = os.environ | {"PATH": search_path(), "LC_ALL": "C.UTF-8"}
        # pg_ctl's server keeps what it inherits open, so that a pipe would never end.
        output = self.folder / "output"
        with output.open("w") as out:
            done = subprocess.run(
                command, cwd=self.folder, env=env, stdout=out, stderr=out, user=self._user, check=False
            )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {output.read_text()[-2000:]}")
        return output.read_text()


class Deployment:
    """Airflow's processes, and what its REST API says of DAG runs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.postgres = Postgres(home / "postgres")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.triggerers: list[subprocess.Popen[bytes]] = []
        #: All that the API answered about runs, for who looks for secrets in it. What it answers about connections is
        #: Airflow's own business.
        self.answers: list[str] = []
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
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret on loopback, of at least 64 characters, as Airflow 3 wants it",
            "AIRFLOW__WEBSERVER__SECRET_KEY": "a secret on loopback",
            "AIRFLOW__WEBSERVER__WORKERS": "1",
            "AIRFLOW__API__WORKERS": "1",
            # What takes its time by default, so that a run of all scenarios does not. Among it are the seconds after
            # which Airflow 3 sees that a task left its worker: one that is back by then is taken for lost.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
        }

    def __enter__(self) -> Deployment:
        (self.home / "dags").mkdir()
        for file in DAGS:
            shutil.copy(file, self.home / "dags")
        try:
            self.postgres.start()
            self._airflow("db", "migrate")
            if IS_2:
                self._airflow(
                    *"users create --username admin --password admin --firstname A --lastname B".split(),
                    *"--role Admin --email admin@example.com".split(),
                )
                self._session.auth = ("admin", "admin")
            server = ["webserver", "--hostname"] if IS_2 else ["api-server", "--host"]
            self._start(*server, "127.0.0.1", "--port", str(self.port))
            self._start("scheduler")
            if not IS_2:
                self._start("dag-processor")
            wait_for("Airflow's server", self._answers, 120)
            if not IS_2:
                token = self._session.get(f"{self.url}/auth/token", timeout=30).json()["access_token"]
                self._session.headers["Authorization"] = f"Bearer {token}"
            for _ in range(1 if IS_2 else 2):
                self.start_triggerer()
            wait_for("the DAGs", lambda: {dag["dag_id"] for dag in self.get("dags")["dags"]} >= DAG_IDS, 120)
            wait_for("all parts", self._is_healthy, 120)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Whoever is in a hurry waits for this all the same.
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
        """Kill a process and all that it started, which is in its session."""
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            with suppress(ProcessLookupError):
                if os.getsid(pid) == process.pid:
                    os.kill(pid, signal.SIGKILL)
        process.wait()

    def start_triggerer(self) -> None:
        """Start one more, and wait for it, so that the order of their jobs is that of the processes."""
        count = len(self.triggerers)
        env = {"AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port())}
        self.triggerers.append(self._start("triggerer", log=f"triggerer-{count}", **env))
        if not IS_2:
            wait_for("a triggerer", lambda: len(self.triggerer_jobs()) > count, 60)

    def _airflow(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "airflow", *arguments]
        done = subprocess.run(command, cwd=self.home, env=self._env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"airflow {' '.join(arguments)}: {done.stderr[-3000:]}")

    def _start(self, part: str, *arguments: str, log: str = "", **env: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", part, *arguments],
            cwd=self.home,
            env=self._env | env,
            stdin=subprocess.DEVNULL,
            stdout=(self.home / f"{log or part}.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def _answers(self) -> bool:
        try:
            return self._health().status_code == 200
        except requests.ConnectionError:
            return False

    def _health(self) -> requests.Response:
        return self._session.get(f"{self.url}{'/health' if IS_2 else '/api/v2/monitor/health'}", timeout=30)

    def _is_healthy(self) -> bool:
        parts = {name: part["status"] for name, part in self._health().json().items() if part["status"]}
        return len(parts) >= 3 and set(parts.values()) == {"healthy"}

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        """Call the public REST API; an answer that is no success raises with its words."""
        response = self._session.request(
            method, f"{self.url}/api/{'v1' if IS_2 else 'v2'}/{path}", timeout=60, **kwargs
        )
        if not response.ok:
            raise RuntimeError(f"{method} {path}: {response.status_code} {response.text[:2000]}")
        if "/dagRuns" in path:
            self.answers.append(response.text)
        return response

    def get(self, path: str, **params: Any) -> Any:
        """GET of the REST API."""
        return self.call("GET", path, params=params).json()

    def connect(self, conn_id: str, **fields: Any) -> None:
        """Make or change a connection."""
        body = {"connection_id": conn_id, "conn_type": "portkey", **fields, "extra": json.dumps(fields["extra"])}
        exists = any(c["connection_id"] == conn_id for c in self.get("connections", limit=100)["connections"])
        self.call("PATCH" if exists else "POST", f"connections/{conn_id}" if exists else "connections", json=body)

    def trigger(self, dag_id: str, **conf: Any) -> DagRun:
        """Begin a run."""
        body = {"conf": conf} if IS_2 else {"conf": conf, "logical_date": None}
        answer = self.call("POST", f"dags/{dag_id}/dagRuns", json=body).json()
        return DagRun(self, dag_id, answer["dag_run_id"])

    def triggerer_jobs(self) -> list[int]:
        """The ids of the triggerers' jobs, in the order that they were started in."""
        return sorted(job["id"] for job in self.get("jobs", job_type="TriggererJob")["jobs"])

    def triggerer_logs(self) -> list[str]:
        """What each triggerer printed."""
        return [
            (self.home / f"triggerer-{number}.log").read_text(errors="replace")
            for number in range(len(self.triggerers))
        ]

    def log_files(self) -> Iterable[Path]:
        """All logs: of the parts, and of the tasks."""
        parts = [*self.home.glob("*.log"), self.postgres.folder / "server.log"]
        return [*parts, *(p for p in (self.home / "logs").rglob("*") if p.is_file())]


class DagRun:
    """One run of a DAG, as the REST API tells of it."""

    def __init__(self, deployment: Deployment, dag_id: str, run_id: str) -> None:
        self._deployment = deployment
        self.dag_id = dag_id
        self.run_id = run_id
        self.path = f"dags/{dag_id}/dagRuns/{run_id}"

    def task_instances(self) -> dict[str, dict[str, Any]]:
        """What there is of each task, by its id, with the map index behind it if there is one."""
        found: list[dict[str, Any]] = []
        total = 1
        while len(found) < total:
            page = self._deployment.get(f"{self.path}/taskInstances", limit=100, offset=len(found))
            found, total = found + page["task_instances"], page["total_entries"]
        return {ti["task_id"] + (f"[{ti['map_index']}]" if ti["map_index"] >= 0 else ""): ti for ti in found}

    def states(self) -> dict[str, str]:
        return {name: ti["state"] for name, ti in self.task_instances().items()}

    def wait(self, timeout: float = 180.0) -> dict[str, str]:
        """Return the tasks' states as soon as the run is over."""

        def over() -> bool:
            return bool(self._deployment.get(self.path)["state"] in ("success", "failed"))

        self._wait_for("the end", over, timeout)
        return self.states()

    def wait_until(self, state: str, tasks: Iterable[str], timeout: float = 120.0) -> None:
        """Wait until all ``tasks`` are in ``state``."""
        wanted = set(tasks)

        def there() -> bool:
            states = self.states()
            return {states.get(name) for name in wanted} == {state}

        self._wait_for(state, there, timeout)
        if state == "deferred" and not IS_2:
            time.sleep(3)  # until Airflow has seen them leave their workers, see above

    def clear(self, *task_ids: str) -> None:
        """Clear tasks, as a person does."""
        body = {"dag_run_id": self.run_id, "task_ids": task_ids, "only_failed": False}
        body |= {"dry_run": False, "reset_dag_runs": True}
        self._deployment.call("POST", f"dags/{self.dag_id}/clearTaskInstances", json=body)

    def fail(self, task_id: str) -> None:
        """Mark a task as failed, as a person does."""
        body = {"new_state": "failed"} | ({"dry_run": False} if IS_2 else {})
        self._deployment.call("PATCH", f"{self.path}/taskInstances/{task_id}", json=body)

    def _wait_for(self, what: str, holds: Callable[[], bool], timeout: float) -> None:
        try:
            wait_for(f"{self.dag_id}: {what}", holds, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self.states()}") from None

    def xcoms(self, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """What a task has in XCom, by key."""
        path = f"{self.path}/taskInstances/{task_id}/xcomEntries"
        entries = self._deployment.get(path, map_index=map_index)["xcom_entries"]
        return {entry["key"]: self.xcom(task_id, entry["key"], map_index) for entry in entries}

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        path = f"{self.path}/taskInstances/{task_id}/xcomEntries/{key}"
        value = self._deployment.get(path, map_index=map_index)["value"]
        # Airflow 2 answers with text: a string as it is, anything else as Python would write it.
        return ast.literal_eval(value) if IS_2 and re.match(r"[\[{]|None$", value or "") else value

    def files_of_logs(self, task_id: str = "*") -> list[Path]:
        """The logs of its tasks: one for each attempt, and one for each trigger of that."""
        folder = self._deployment.home / "logs" / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        return list(folder.glob(f"task_id={task_id}/**/*.log"))

    def log(self, task_id: str, attempt: int = 1, map_index: int = -1) -> str:
        """The log of one attempt, as the REST API gives it."""
        path = f"{self.path}/taskInstances/{task_id}/logs/{attempt}"
        answer = self._deployment.call(
            "GET", path, params={"map_index": map_index, "full_content": True}, headers={"Accept": "application/json"}
        )
        content = answer.json()["content"]
        if isinstance(content, str):
            return content
        return "\n".join(json.dumps(line) if isinstance(line, Mapping) else str(line) for line in content)
