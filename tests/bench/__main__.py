"""
Compares waits on one event loop: of this provider, of others, of aiohttp alone, and the theoretical minimum.

Each contender runs in its own process. Its server runs in another one, responds after 50 ms, and reports a batch as
completed at the third poll.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import ssl
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import certifi
import trustme

from tests.bench.contender import CONN_ID, CONNECTIONS
from tests.bench.server import POLLS

LATENCY, INTERVAL, CONNECTIONS_AT_ONCE = 0.05, 1.0, 100
#: Seconds after which a contender is stopped, by the number of waits. With 10,000 waits this stops those that need
#: minutes for 1,000.
LIMITS = {100: 60.0, 1_000: 240.0, 10_000: 45.0}
IMPORTS = {
    "this": "airflow_provider_portkey.sensors.batch",
    "openai": "airflow.providers.openai.operators.openai",
    "anthropic": "airflow.providers.anthropic.sensors.batch",
    "common-ai": "airflow.providers.common.ai.operators.llm_batch",
}
PACKAGES = {
    "this": "airflow-provider-portkey",
    "openai": "apache-airflow-providers-openai",
    "anthropic": "apache-airflow-providers-anthropic",
    "common-ai": "apache-airflow-providers-common-ai",
    "bare aiohttp": "aiohttp",
}


def minimum(waits: int) -> float:
    """Return the theoretical minimum in seconds: the intervals between polls, or the capacity of the connections."""
    return max((POLLS - 1) * INTERVAL + POLLS * LATENCY, waits * POLLS * LATENCY / CONNECTIONS_AT_ONCE)


def run(name: str, waits: int, certificates: Path | None, home: str) -> dict[str, Any]:
    """Run one contender, and return its figures and those of its server."""
    limit = LIMITS.get(waits, 240.0)
    serve = [sys.executable, "-m", "tests.bench.server", str(LATENCY)]
    if certificates:
        serve.append(str(certificates / "server.pem"))
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            url = server.stdout.readline().strip()
            env = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW") and "proxy" not in k.lower()}
            env |= {
                "AIRFLOW_HOME": home,
                f"AIRFLOW_CONN_{CONN_ID.upper()}": json.dumps(CONNECTIONS[name]).replace("{url}", url),
            }
            if certificates:
                env |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), str(certificates / "ca.pem"))
            command = [sys.executable, "-m", "tests.bench.contender", name, str(waits), str(INTERVAL), str(limit)]
            try:
                done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit + 60, check=True)
            except subprocess.TimeoutExpired:
                return {"name": name, "waits": waits, "ended": 0, "wall": limit}
            except subprocess.CalledProcessError as error:
                sys.exit(f"{name}: {error.stderr[-2000:]}")
            figures = json.loads(done.stdout.splitlines()[-1])
            context = ssl.create_default_context(cafile=certificates / "ca.pem") if certificates else None
            with urllib.request.urlopen(f"{url}/figures", timeout=30, context=context) as answer:  # noqa: S310
                figures |= json.load(answer)
        finally:
            server.kill()
    if figures["bad"] or (figures["ended"] == waits and figures["requests"] < waits * POLLS):
        sys.exit(f"{name}: not every wait polled its batch to the end: {figures}")
    return {"name": name, "waits": waits, **figures}


def import_time(module: str, home: str) -> float:
    """Return how many seconds the import of a module takes after that of Airflow's base classes: a median of five."""
    code = (
        "import time; from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator, conf\n"
        f"began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
    )
    env = os.environ | {"AIRFLOW_HOME": home}

    def once() -> float:
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        return float(done.stdout.splitlines()[-1])

    once()  # The first import compiles the module.
    return statistics.median(once() for _ in range(5))


def row(figures: dict[str, Any]) -> str:
    """Return one row of the table."""
    name, waits = figures["name"], figures["waits"]
    if figures["ended"] < waits:
        return f"| {name} | stopped after {figures['wall']:.0f} s, {figures['ended']} waits ended | | | | |"
    wall = f"{figures['wall']:.1f} s ({figures['wall'] / minimum(waits):.1f} x)"
    lag = " / ".join(f"{figures['lag'][key] * 1e3:.0f}" for key in ("p50", "p99", "max"))
    return (
        f"| {name} | {wall} | {figures['cpu'] / figures['requests'] * 1e3:.2f} ms | {lag} ms "
        f"| {figures['connections']} | {figures['memory'] / 1024:.0f} KiB |"
    )


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Plot the time of the waits over HTTP, as a multiple of the minimum, and the lag of the event loop."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for name in CONNECTIONS:
        done = [f for f in results["http"] if f["name"] == name and f["ended"] == f["waits"]]
        style = {"marker": "o", "label": name, "linewidth": 2.5 if name == "this" else 1.2}
        waits = [f["waits"] for f in done]
        left.plot(waits, [f["wall"] / minimum(f["waits"]) for f in done], **style)
        right.plot(waits, [max(f["lag"]["p99"], 1e-4) * 1e3 for f in done], **style)
    left.set(title="Time until all waits have ended,\nas a multiple of the theoretical minimum", xlabel="waits")
    right.set(title="Lag of the event loop for other triggers,\n99th percentile in ms", xlabel="waits")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3)
    left.axhline(1, color="grey", linestyle=":")
    left.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run all contenders, print tables in Markdown, and save the plot."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--waits", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--only", nargs="+", choices=list(CONNECTIONS), default=list(CONNECTIONS))
    parser.add_argument("--schemes", nargs="+", choices=["http", "https"], default=["http", "https"])
    parser.add_argument("--plot", type=Path, help="the file for the plot (PNG)")
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(", ".join(f"{name} = {package} {version(package)}" for name, package in PACKAGES.items()), "\n")
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        authority = trustme.CA()
        # The file also has the public authorities, because a client of a public API loads those.
        (folder / "ca.pem").write_bytes(Path(certifi.where()).read_bytes() + authority.cert_pem.bytes())
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        for scheme in arguments.schemes:
            results[scheme] = []
            for waits in arguments.waits:
                print(f"{waits:,} waits over {scheme}; the theoretical minimum is {minimum(waits):.2f} s\n")
                columns = "all ended after (x minimum) | CPU per poll | loop lag p50 / p99 / max | connections | memory"
                print(f"| | {columns} |")
                print("| --- | --- | --- | --- | --- | --- |")
                for name in arguments.only:
                    figures = run(name, waits, folder if scheme == "https" else None, home)
                    results[scheme].append(figures)
                    print(row(figures), flush=True)
                print()
        print("Import time after Airflow's own base classes:", end=" ")
        print(", ".join(f"{n} {import_time(m, home) * 1e3:.0f} ms" for n, m in IMPORTS.items() if n in arguments.only))
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
