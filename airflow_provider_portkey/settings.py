"""
What an Airflow connection of type ``portkey`` says: read, checked, and its secrets.

.. seealso:: https://portkey.ai/docs/api-reference/inference-api/headers
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_portkey import __version__
from airflow_provider_portkey.get_provider_info import CONNECTION_TYPE
from airflow_provider_portkey.headers import READABLE_HEADERS, is_credential_header, looks_like_credential
from airflow_provider_portkey.http import ACCEPT_ENCODING
from airflow_provider_portkey.problems import Problems
from airflow_provider_portkey.text import decode_json, shorten

DEFAULT_BASE_URL = "https://api.portkey.ai/v1"

#: The headers that name the provider which serves a batch.
ROUTE_HEADERS = ("x-portkey-virtual-key", "x-portkey-provider", "x-portkey-config")

#: The headers that carry the API key.
KEY_HEADERS = frozenset({"authorization", "x-portkey-api-key"})
# Shorter secrets are not masked: they would blank out everyday words.
_MIN_SECRET_LENGTH = 5


@dataclass(frozen=True)
class Settings:
    """
    An Airflow connection of type ``portkey``, checked.

    Hooks whose settings are equal share an HTTP session on an event loop. ``repr`` shows no header, since each may be a
    secret.
    """

    #: The connection's id, for messages; empty if it means nothing to their reader.
    conn_id: str
    #: Ends in ``/v1``, without a trailing slash.
    base_url: str
    #: What each request carries.
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    #: Seconds for one request in all. Portkey's own retries can hold a call for 60 seconds.
    timeout: float = 90.0
    #: Seconds for connecting, part of ``timeout``.
    connect_timeout: float = 10.0
    #: Whether to verify the server's certificate, or the path of a file of CA certificates for that.
    verify: bool | str = True
    #: URL of an HTTP proxy; ``None`` leaves it to the environment.
    proxy: str | None = field(default=None, repr=False)
    #: How many requests a triggerer has in flight at once.
    max_connections: int = 100
    #: When the CA certificates last changed, in Unix seconds: new ones need a new session.
    trusted_since: float = 0.0

    @property
    def name(self) -> str:
        """The connection, for the first line of a message."""
        return f"connection {shorten(self.conn_id, 30)!r}" if self.conn_id else "the connection"

    @property
    def full_name(self) -> str:
        """The connection, for the other lines of a message."""
        return f"connection {self.conn_id!r}" if self.conn_id else "the connection"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown: the values of the headers as the connection has them, and the proxy's URL."""
        values = [
            value
            for name, value in self.headers
            if looks_like_credential(value) or (name not in READABLE_HEADERS and value.lower() not in ("true", "false"))
        ]
        for name, value in self.headers:
            if name.endswith("authorization") or looks_like_credential(value):
                values.append(value.rpartition(" ")[2])
            elif name == "x-portkey-config":
                values += _config_secrets(decode_json(value.encode()))
        if self.proxy:
            values += [self.proxy, urlsplit(self.proxy).password or ""]
        return tuple(dict.fromkeys(filter(None, values)))

    def redact(self, text: str) -> str:
        """Return ``text`` without the connection's secrets: a response may quote what was sent."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            if len(secret) >= _MIN_SECRET_LENGTH:
                text = text.replace(secret, "***")
        return text

    def with_headers(self, headers: Mapping[str, str]) -> Settings:
        """Return these settings with a task's headers, which replace the connection's of the same names."""
        return replace(self, headers=tuple({**dict(self.headers), **headers}.items())) if headers else self

    @classmethod
    def from_connection(
        cls,
        conn_id: str,
        *,
        host: str | None = None,
        port: int | None = None,
        schema: str | None = None,
        password: str | None = None,
        extra: str | None = None,
    ) -> Settings:
        """
        Read the fields of an Airflow connection.

        :param conn_id: the connection's id, for messages; empty if it means nothing to their reader
        :param host: base URL, with or without scheme (``https`` by default) and ``/v1``
        :param port: port of the base URL
        :param schema: path of the base URL, as a connection's URI has it; or ``http`` or ``https``
        :param password: Portkey API key
        :param extra: JSON object with the fields that ``docs/connection.md`` lists
        :raises PortkeyInputError: lists all that is missing or invalid
        """
        problems = Problems()
        subject = f"Invalid connection {shorten(conn_id, 30)!r}" if conn_id else "Invalid connection"
        base_url = problems.collect(_base_url, host, port, schema) or ""
        fields = problems.collect(_extra, extra)
        if fields is None:  # nothing else can be checked
            raise problems.as_error(subject)
        known = CONNECTION_TYPE["conn-fields"].keys()
        if unknown := sorted(map(str, fields.keys() - known)):
            problems.append(f"extra: unknown field {', '.join(unknown)} (known: {', '.join(sorted(known))})")
        headers = problems.collect(_headers, password, fields, urlsplit(base_url).hostname) or ()
        values = {name: problems.collect(read, name, fields[name]) for name, read in _FIELDS.items() if name in fields}
        if problems:
            raise problems.as_error(subject)
        settings = cls(conn_id, base_url, headers, **values)
        return replace(settings, connect_timeout=min(settings.connect_timeout, settings.timeout))


def task_headers(value: Any, *, rendered: bool = True) -> dict[str, str]:
    """
    Return the headers of a task, with names in lower case.

    A deferred task stores them in Airflow's database, and Airflow shows them in its UI: no credential may be in them.

    :param value: as the task's author wrote them
    :param rendered: whether the values are final; otherwise they may be templates, or a reference to an XCom
    :raises PortkeyInputError: lists all that is invalid
    """
    problems = Problems()
    for name, text in value.items() if isinstance(value, Mapping) else ():
        if is_credential_header(str(name)) or looks_like_credential(str(text)):
            problems.append(
                f"headers must not contain {shorten(repr(name), 40)}: put credentials into headers of the connection"
            )
    headers = problems.collect(_read_headers, "headers", value) if rendered and value is not None else None
    if problems:
        raise problems.as_error("Invalid headers")
    return headers or {}


def _config_secrets(config: Any, name: str = "") -> Iterator[str]:
    """Find the secrets in a config that is given as JSON: members such as ``api_key``."""
    if isinstance(config, Mapping):
        for member, value in config.items():
            yield from _config_secrets(value, member)
    elif isinstance(config, list):
        for value in config:
            yield from _config_secrets(value, name)
    elif isinstance(config, str) and re.search("key|secret|token|password|credential|auth", name, re.IGNORECASE):
        yield config


def _extra(text: str | None) -> dict[str, Any]:
    try:
        extra = json.loads(text or "{}")
    except (ValueError, RecursionError):
        extra = None
    if not isinstance(extra, dict):
        raise ValueError('extra: must be a JSON object such as {"virtual_key": "openai-prod"}')
    # Forms send null or "" for an empty field.
    return {
        name: value
        for name, value in extra.items()
        if value not in (None, {}) and not (isinstance(value, str) and not value.strip())
    }


def _base_url(host: str | None, port: int | None, schema: str | None) -> str:
    text = (host or "").strip() or DEFAULT_BASE_URL
    if "://" not in text:
        if re.fullmatch(r"[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*", text):
            text = f"[{text}]"  # Airflow removes the brackets of a URI's IPv6 address
        text = f"{schema if schema in ('http', 'https') else 'https'}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port or port
    except ValueError:
        # The original message quotes the text, which may hold a password.
        raise ValueError("host: not a base URL: its port or IPv6 address is invalid") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"host: must be a base URL such as {DEFAULT_BASE_URL}")
    if "@" in parts.netloc:
        raise ValueError("host: must not hold a user or password: the API key belongs in the password field")
    if parts.query or parts.fragment:
        raise ValueError("host: must not contain '?' or '#': it is a base URL")
    if re.search(r"[\s\\]", text):
        raise ValueError("host: must not contain white space or backslashes: it is a base URL")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = [p for p in parts.path.split("/") if p]
    if schema and schema not in ("http", "https"):
        path += [p for p in schema.split("/") if p]
    if "v1" in path and path[-1] != "v1":
        raise ValueError("host: remove what follows /v1: it is a base URL, not that of one call")
    if not path or path[-1] != "v1":
        path.append("v1")
    return "/".join([f"{parts.scheme}://{name}" + (f":{port}" if port else ""), *path])


def _headers(password: str | None, extra: Mapping[str, Any], host: str | None) -> tuple[tuple[str, str], ...]:
    problems = Problems()
    headers = {
        "accept": "application/json",
        "accept-encoding": ACCEPT_ENCODING,
        "user-agent": f"airflow-provider-portkey/{__version__}",
    }
    extra_headers = problems.collect(_read_headers, "extra: headers", extra.get("headers", {})) or {}
    for name, (source, value) in _field_headers(password, extra, problems).items():
        if name in extra_headers:
            problems.append(f"extra: headers has {name!r}, which {source} sets too: keep one of them")
        if value is not None and not _is_header_value(value):
            problems.append(f"{source}: has line breaks or characters that are not allowed in an HTTP header")
        headers[name] = value or ""
    headers |= extra_headers
    # A self-hosted gateway may need no key.
    if not (password or "").strip() and not headers.keys() & KEY_HEADERS and f".{host}".endswith(".portkey.ai"):
        problems.append("password: the Portkey API key is missing")
    routes = [name for name in ROUTE_HEADERS if name in headers]
    managed = problems.collect(_flag, "managed", extra.get("managed", False))
    if not routes and not managed:
        problems.append(
            "extra: set virtual_key, provider or config. It names the provider credential that the batch was created "
            "with; without one Portkey would search its own managed batches. If you want those, set managed to true"
        )
    if routes and managed:
        problems.append(f"extra: managed is true, but {', '.join(routes)} names a provider: keep one of them")
    problems.raise_any()
    return tuple(headers.items())


def _field_headers(
    password: str | None, extra: Mapping[str, Any], problems: Problems
) -> dict[str, tuple[str, str | None]]:
    """Return the headers that fields of the connection set: name -> (field, value or ``None`` if that is invalid)."""
    headers: dict[str, tuple[str, str | None]] = {}
    key = (password or "").strip()
    auth = extra.get("auth", "portkey")
    if auth not in ("portkey", "bearer"):
        problems.append(f"extra: auth must be 'portkey' or 'bearer', got {shorten(repr(auth))}")
    if key and auth == "bearer":
        headers["authorization"] = ("password, with auth 'bearer'", f"Bearer {key}")
    elif key:
        headers["x-portkey-api-key"] = ("password", key)
    for header in ROUTE_HEADERS:
        name = header.removeprefix("x-portkey-").replace("-", "_")
        if name in extra:
            text = problems.collect(_config if name == "config" else _header_text, name, extra[name])
            headers[header] = (f"extra: {name}", text)
    return headers


def _read_headers(field_name: str, value: Any) -> dict[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping):
        raise ValueError(f'{field_name} must be a JSON object such as {{"x-portkey-trace-id": "nightly"}}')
    problems = Problems()
    headers = {}
    for name, content in value.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", str(name)):
            problems.append(f"{field_name} has {shorten(repr(name))}, which is not a valid header name")
        elif not isinstance(content, (str, int, float)) or not _is_header_value(str(content).strip()):
            problems.append(f"{field_name}: the value of {name!r} is not a valid header value")
        else:
            headers[str(name).lower()] = str(content).strip()
    problems.raise_any()
    return headers


def _config(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value, separators=(",", ":"))
    text = _header_text(name, value)
    if not text.startswith("{"):
        return text
    try:
        return json.dumps(json.loads(text), separators=(",", ":"))
    except (ValueError, RecursionError):
        raise ValueError("extra: config is not valid JSON; it may also be an id (pc-...)") from None


def _header_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"extra: {name} must be a string, got {type(value).__name__}")
    return value.strip()


def _is_header_value(value: str) -> bool:
    return bool(value) and value.isprintable() and value.isascii()


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"extra: {name} must be a number of seconds above 0, got {shorten(repr(value))}")
    return seconds


def _count(name: str, value: Any) -> int:
    text = str(value).strip()
    if not re.fullmatch(r"0*[1-9][0-9]{0,5}", text):
        raise ValueError(f"extra: {name} must be a whole number from 1 to 999999, got {shorten(repr(value))}")
    return int(text)


def parse_flag(name: str, value: Any) -> bool:
    """
    Return a flag that may be text, as forms and templates have it.

    :raises ValueError: if it is none
    """
    flag = {"true": True, "false": False}.get(str(value).strip().lower())
    if flag is None:
        raise ValueError(f"{name} must be true or false, got {shorten(repr(value))}")
    return flag


def _flag(name: str, value: Any) -> bool:
    return parse_flag(f"extra: {name}", value)


def _verify(name: str, value: Any) -> bool | str:
    try:
        return _flag(name, value)
    except ValueError:
        if isinstance(value, str):
            return value.strip()
        raise ValueError(f"extra: {name} must be true, false or the path of a file of CA certificates") from None


def _proxy(name: str, value: Any) -> str:
    proxy = str(value).strip()
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"extra: {name} must be a URL such as http://proxy.example.com:3128")
    return proxy


#: The fields of extra that are settings of their own; the others decide the headers.
_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "timeout": _seconds,
    "connect_timeout": _seconds,
    "verify": _verify,
    "proxy": _proxy,
    "max_connections": _count,
}
