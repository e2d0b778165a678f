"""A PostgreSQL server for one deployment of Airflow."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cryptography.fernet import Fernet

from tests.live.host import IS_ROOT, free_port, require_program, search_path

FERNET_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


class Postgres:
    """A server with one empty database ``airflow``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if IS_ROOT else None
        self._client_options = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]

    @property
    def dsn(self) -> str:
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/airflow"

    def start(self) -> None:
        require_program("initdb", "postgresql")
        self.folder.mkdir()
        if self._user:
            shutil.chown(self.folder, self._user)
        self._run("initdb", "-D", "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off -c max_connections=300"
        self._run("pg_ctl", "-D", "data", "-w", "-l", "server.log", "-o", options, "start")
        self._run("createdb", *self._client_options, "airflow")

    def stop(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", "data", "-m", "immediate", "stop")

    def dump(self) -> str:
        """Return everything in the database as SQL."""
        return self._run("pg_dump", *self._client_options, "airflow")

    def trigger_arguments(self) -> list[str]:
        """Return the stored arguments of each trigger. Airflow 3.3 stores them as JSON, Airflow 2 encrypts them."""
        rows = self._run("psql", *self._client_options, "-At", "airflow", "-c", "select kwargs from trigger")
        return [row if row.startswith("{") else Fernet(FERNET_KEY).decrypt(row).decode() for row in rows.splitlines()]

    def _run(self, *command: str) -> str:
        env = os.environ | {"PATH": search_path(), "LC_ALL": "C.UTF-8"}
        # The output goes to a file, because pg_ctl's server inherits the output and would keep a pipe open.
        output = self.folder / "output"
        with output.open("w") as out:
            process = subprocess.run(
                command, cwd=self.folder, env=env, stdout=out, stderr=out, user=self._user, check=False
            )
        if process.returncode:
            raise RuntimeError(f"{command[0]}: {output.read_text()[-2000:]}")
        return output.read_text()
