"""Everything that somebody could read, searched for the secrets of a connection."""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
import traceback
from contextlib import ExitStack
from typing import Any

# No two of these secrets share a part, so that each is found on its own.
API_KEY = "pk-Zq8vT3nLr5XwYb1Ks7Hd"
VIRTUAL_KEY = "vk-acme-prod-9f31c07e"
CONFIG_KEY = "sk-Gm4JuPe2RcVi6OaWx0Nt"
CONFIG = {"provider": "openai", "api_key": CONFIG_KEY, "retry": {"attempts": 1}}
AWS_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY="
PROVIDER_KEY = "sk-5DfBhQy9SkUz8EoMl3Cg"
PROXY_PASSWORD = "hunter2-horse-battery"  # noqa: S105 - a secret of these tests only
PROXY_BASIC = base64.b64encode(f"me:{PROXY_PASSWORD}".encode()).decode()
SECRETS = {
    "API key": API_KEY,
    "virtual key": VIRTUAL_KEY,
    "config": json.dumps(CONFIG, separators=(",", ":")),
    "key in the config": CONFIG_KEY,
    "AWS key in a header": AWS_KEY,
    "provider's key in a header": PROVIDER_KEY,
    "proxy's password": PROXY_PASSWORD,
    "proxy's credentials, encoded": PROXY_BASIC,
}
#: So many characters of a secret in a row reveal it; "sk-abcde***" does not.
REVEALING_LENGTH = 10


class Evidence:
    """All texts that somebody could read, each with the place where it was found."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def add(self, place: str, text: str) -> None:
        self.texts.append((place, text))

    def add_object(self, place: str, thing: object) -> None:
        self.add(f"repr of {place}", repr(thing))
        self.add(f"str of {place}", str(thing))

    def add_error(self, error: BaseException) -> None:
        """Add an exception, with every cause and context, whether a traceback shows them or not."""
        self.add("traceback", "".join(traceback.format_exception(error)))
        done: list[BaseException] = []
        left: list[BaseException | None] = [error]
        while left:
            link = left.pop()
            if link is None or any(link is known for known in done):
                continue
            assert link not in (link.__cause__, link.__context__), "an exception that caused itself"
            done.append(link)
            self.add_object(f"{type(link).__name__} in the exception's chain", link)
            left += [link.__cause__, link.__context__]

    def leaks(self) -> list[str]:
        """Return which secrets, or revealing parts of them, can be read where."""
        leaks = []
        for name, secret in SECRETS.items():
            parts = {secret[n : n + REVEALING_LENGTH] for n in range(len(secret) - REVEALING_LENGTH + 1)}
            if secret.startswith("{"):  # Of the config's JSON only the whole is a secret. Its key is one of its own.
                parts = {secret, secret.replace('"', '\\"')}
            for place, text in self.texts:
                if part := next((part for part in parts if part in text), None):
                    at = text.index(part)
                    leaks.append(f"{name} in {place}: …{text[max(0, at - 60) : at + 60]}…")
        return leaks


class _Handler(logging.Handler):
    def __init__(self, evidence: Evidence) -> None:
        super().__init__(logging.DEBUG)
        self._evidence = evidence

    def emit(self, record: logging.LogRecord) -> None:
        self._evidence.add(f"log of {record.name}", f"{self.format(record)} {record.args!r}")


def record_logging(evidence: Evidence, cleanup: ExitStack) -> None:
    """Record every logger of the standard library at DEBUG, whatever Airflow configured."""
    handler = _Handler(evidence)
    loggers = [logging.getLogger(name) for name in (*logging.root.manager.loggerDict, "urllib3", "aiohttp", "asyncio")]
    for logger in (logging.root, *loggers):
        cleanup.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.DEBUG)
        # A logger that does not propagate needs the handler itself.
        if logger is logging.root or not logger.propagate:
            logger.addHandler(handler)
            cleanup.callback(logger.removeHandler, handler)
    cleanup.callback(logging.disable, logging.root.manager.disable)
    logging.disable(logging.NOTSET)


def record_structlog(evidence: Evidence, cleanup: ExitStack) -> None:
    """Record what Airflow 3 logs, before Airflow masks secrets."""
    if importlib.util.find_spec("structlog") is None:  # Airflow 2
        return
    import structlog

    def record(logger: Any, level: str, event: Any) -> Any:
        if event.get("exc_info"):
            evidence.add("structlog's traceback", traceback.format_exc())
        evidence.add(f"structlog, {level}", repr(event))
        raise structlog.DropEvent

    config: dict[str, Any] = structlog.get_config()
    cleanup.callback(lambda: structlog.configure(**config))
    structlog.configure(processors=[record], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
