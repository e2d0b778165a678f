"""Free ports, installed programs, and a function that waits for a condition."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

IS_ROOT = os.geteuid() == 0
Result = TypeVar("Result")


def free_port() -> int:
    """Return a free port below the range from which the system assigns ports to clients.

    A port of that range could be assigned to a client before the server binds it.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@contextmanager
def refused_port(port: int) -> Iterator[None]:
    """Bind a port without listening: connections to it are refused, and no other program can take it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        yield


def wait_for(what: str, condition: Callable[[], Result], timeout: float = 60.0, interval: float = 0.5) -> Result:
    """Evaluate ``condition`` until it is true, and return its value."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(interval)
    return result


def search_path() -> str:
    """Return PATH with PostgreSQL's programs, which Debian installs outside of it."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return os.pathsep.join([*map(str, folders), os.environ["PATH"]])


def require_program(program: str, package: str) -> str:
    """Return the path of a program. Root installs its package with apt; without root the run ends here."""
    apt = shutil.which("apt-get")
    if shutil.which(program, path=search_path()) is None and IS_ROOT and apt:
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", package]):
            subprocess.run(
                [apt, "-qq", *arguments],
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=False,
                timeout=600,
            )
    found = shutil.which(program, path=search_path())
    if found is None:
        pytest.exit(f"make live needs {program}: run `apt-get install {package}` as root", returncode=1)
    return found
