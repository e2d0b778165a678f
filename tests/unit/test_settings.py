"""An Airflow connection becomes settings: base URL, headers, options; or one error that lists all problems."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.get_provider_info import CONNECTION_TYPE
from airflow_provider_portkey.text import MAX_FIRST_LINE
from tests.support.calls import API_KEY, PLAIN, SECRETS, VIRTUAL_KEY, WITH_SECRETS, read_settings
from tests.support.strategies import JSON

FIELDS = sorted(CONNECTION_TYPE["conn-fields"])

# Each base URL, and the hosts that give it: as a user pastes one, or as host, port and schema of a connection's URI.
BASE_URLS: dict[str, list[Any]] = {
    "https://api.portkey.ai/v1": [None, "", " "],
    "https://gw.example/v1": ["https://gw.example/v1", "https://gw.example/v1/", " https://gw.example/ ", "GW.example"],
    "https://gw.example/v1/ai/v1": ["https://gw.example/v1/ai/v1"],
    "http://localhost:8787/v1": ["http://localhost:8787", "http://localhost:8787/v1/", ("localhost", 8787, "http")],
    "https://gw.example:8443/v1": ["gw.example:8443", ("gw.example", 8443, "v1"), ("gw.example:8443", 1, "https")],
    "https://gw.example/ai/v1": ["gw.example//ai/v1/", ("gw.example", None, "/ai/v1/"), ("gw.example/ai", None, "v1")],
    "http://[2001:db8::1]:8787/v1": ["http://[2001:db8::1]:8787/v1", ("http://[2001:db8::1]", 8787, "v1")],
    "https://[::1]/v1": ["[::1]", ("[::1]", None, "v1"), ("::1", None, "v1")],
}
# Each complaint, and the hosts that it is about.
INVALID_HOSTS: dict[str, list[Any]] = {
    "must not hold a user or password": ["https://me:tiger@gw.example/v1", "tiger@gw.example"],
    "must not contain '?' or '#'": ["https://gw.example/v1?key=tiger", "https://gw.example/v1#tiger"],
    "must not contain white space or backslashes": ["https://gw.example/v 1", "https://gw.example\\v1"],
    "remove what follows /v1: it is a base URL": [
        "https://gw.example/v1/batches",
        "gw.example/ai/v1/batches/tiger",
        ("gw.example", None, "v1/chat/completions"),
        ("https://gw.example/v1", None, "batches"),
    ],
    "must be a base URL such as": ["ftp://gw.example", "https://"],
    "not a base URL: its port or IPv6 address is invalid": ["https://gw.example:port", "https://[::1"],
}
BY_KEY, SELF_HOSTED = {"x-portkey-api-key": "k"}, {"authorization": "B", "x-portkey-provider": "o"}
# The password and the extra of a connection; the headers that it sends.
HEADERS: dict[str, tuple[str | None, dict[str, Any], dict[str, str]]] = {
    "virtual key": (" k\n", {"virtual_key": "v"}, BY_KEY | {"x-portkey-virtual-key": "v"}),
    "provider": ("k", {"provider": " @o "}, BY_KEY | {"x-portkey-provider": "@o"}),
    "config by id": ("k", {"config": "pc-1"}, BY_KEY | {"x-portkey-config": "pc-1"}),
    "config as JSON": ("k", {"config": {"a": "é"}}, BY_KEY | {"x-portkey-config": r'{"a":"\u00e9"}'}),
    "config as text": ("k", {"config": ' {"a":\n"é"}'}, BY_KEY | {"x-portkey-config": r'{"a":"\u00e9"}'}),
    "managed": ("k", {"managed": True}, BY_KEY),
    "a form's empty fields": ("k", {"managed": "True", "config": "", "headers": None, "proxy": ""}, BY_KEY),
    "bearer": ("k", {"managed": True, "auth": "bearer"}, {"authorization": "Bearer k"}),
    "headers as text": ("k", {"managed": True, "headers": '{"X-A": 1}'}, BY_KEY | {"x-a": "1"}),
    "headers alone": (None, {"headers": {"Authorization": "B", "X-Portkey-Provider": "o"}}, SELF_HOSTED),
}
NO_PROVIDER = "extra: set virtual_key, provider or config."
INVALID_SECONDS: list[Any] = ["soon", 0, -1, math.inf, math.nan, [], True, 10**400]
INVALID_COUNTS: list[Any] = [0, -1, "many", 1.5, True, [], 10**9, "१"]
INVALID_PROXIES: list[Any] = ["proxy.example:3128", "socks5://proxy", "http://", "http://proxy:port", 8080]
# The password and the extra of a connection; the words of each problem that the error lists.
PROBLEMS: list[tuple[str | None, Any, list[str]]] = [
    (None, None, ["password: the Portkey API key is missing", NO_PROVIDER]),
    *[(API_KEY, invalid, ["must be a JSON object"]) for invalid in ("{", "[]", "[" * 100_000)],
    (API_KEY, VIRTUAL_KEY | {"virtualkey": "v", "z": 1}, ["unknown field virtualkey, z (known: auth, config, "]),
    (API_KEY, {"managed": True, "provider": "o"}, ["managed is true, but x-portkey-provider names a provider"]),
    (API_KEY, {"managed": "yes", "provider": "o"}, ["managed must be true or false, got 'yes'"]),
    (API_KEY, VIRTUAL_KEY | {"auth": "basic"}, ["auth must be 'portkey' or 'bearer', got 'basic'"]),
    (API_KEY, {"virtual_key": 5}, ["virtual_key must be a string, got int"]),
    (API_KEY, {"provider": "a\nb"}, ["provider: has line breaks or characters that are not allowed in an HTTP header"]),
    (API_KEY, {"provider": "  "}, [NO_PROVIDER]),
    ("pk-é", VIRTUAL_KEY, ["password: has line breaks or characters that are not allowed in an HTTP header"]),
    (API_KEY, {"config": '{"a"'}, ["config is not valid JSON; it may also be an id (pc-...)"]),
    (API_KEY, VIRTUAL_KEY | {"headers": ["x"]}, ["headers must be a JSON object"]),
    (
        API_KEY,
        VIRTUAL_KEY | {"headers": {"a b": "c", "x-d": [], "x-e": "\n"}},
        ["'a b', which is not a valid header name", "the value of 'x-d' is not a valid", "'x-e'"],
    ),
    (
        API_KEY,
        VIRTUAL_KEY | {"headers": {"X-Portkey-Api-Key": "o"}},
        ["'x-portkey-api-key', which password sets too: keep one of them"],
    ),
    (
        API_KEY,
        VIRTUAL_KEY | {"headers": {"x-portkey-virtual-key": "o"}},
        ["which extra: virtual_key sets too: keep one of them"],
    ),
    (
        API_KEY,
        VIRTUAL_KEY | {"auth": "bearer", "headers": {"authorization": "o"}},
        ["password, with auth 'bearer' sets too: keep one of them"],
    ),
    *[
        (API_KEY, VIRTUAL_KEY | {"timeout": invalid}, ["timeout must be a number of seconds above 0"])
        for invalid in INVALID_SECONDS
    ],
    *[(API_KEY, VIRTUAL_KEY | {"proxy": invalid}, ["proxy must be a URL"]) for invalid in INVALID_PROXIES],
    *[
        (API_KEY, VIRTUAL_KEY | {"max_connections": invalid}, ["max_connections must be a whole number"])
        for invalid in INVALID_COUNTS
    ],
    (
        API_KEY,
        VIRTUAL_KEY | {"verify": 3, "connect_timeout": 0, "z": 1},
        ["unknown field z", "connect_timeout must", "verify must"],
    ),
]


def problems_in(error: PortkeyInputError) -> list[str]:
    """Return the problems that an error about connection ``my_portkey`` lists."""
    first, *lines, last = str(error).splitlines()
    assert last == "Nothing was sent."
    assert len(first) <= MAX_FIRST_LINE
    if "problems: " in first:
        assert first.startswith(f"Invalid connection 'my_portkey', {len(lines)} problems: {lines[0][4:20]}")
        assert all(line.startswith("  - ") for line in lines)
        return [line.removeprefix("  - ") for line in lines]
    # A first line that was cut follows in full.
    [problem] = lines or [first]
    assert problem.startswith("Invalid connection 'my_portkey': ")
    return [problem.removeprefix("Invalid connection 'my_portkey': ")]


@pytest.mark.parametrize(("host", "base_url"), [(host, url) for url in BASE_URLS for host in BASE_URLS[url]], ids=str)
def test_the_base_url_is_read_from_host_port_and_schema(host: Any, base_url: str) -> None:
    host, port, schema = host if isinstance(host, tuple) else (host, None, None)
    assert read_settings(VIRTUAL_KEY, host=host, port=port, schema=schema).base_url == base_url


@pytest.mark.parametrize(("words", "hosts"), INVALID_HOSTS.items(), ids=INVALID_HOSTS)
def test_an_invalid_host_raises_and_is_not_quoted(words: str, hosts: list[Any]) -> None:
    for given_host in hosts:
        host, port, schema = given_host if isinstance(given_host, tuple) else (given_host, None, None)
        with pytest.raises(PortkeyInputError, match=re.escape(words)) as caught:
            read_settings(VIRTUAL_KEY, host=host, port=port, schema=schema)
        assert problems_in(caught.value)[0].startswith("host: ") and "tiger" not in str(caught.value)


@pytest.mark.parametrize(("password", "extra", "headers"), HEADERS.values(), ids=HEADERS)
def test_a_connection_sends_these_headers(password: str | None, extra: dict[str, Any], headers: dict[str, str]) -> None:
    sent = dict(read_settings(extra, password).headers)
    assert sent.pop("user-agent").startswith("airflow-provider-portkey/")
    assert sent == {"accept": "application/json", "accept-encoding": "gzip, deflate"} | headers


def test_options_have_defaults_and_are_read_from_strings() -> None:
    assert (PLAIN.timeout, PLAIN.connect_timeout, PLAIN.verify, PLAIN.proxy) == (90, 10, True, None)
    options = {"timeout": "5", "verify": " /etc/ca.pem ", "proxy": " https://u:p@proxy.example:3128 "}
    settings = read_settings(VIRTUAL_KEY | options)
    assert (settings.timeout, settings.connect_timeout, settings.verify) == (5, 5, "/etc/ca.pem")
    assert settings.proxy == "https://u:p@proxy.example:3128"
    extras = (VIRTUAL_KEY, VIRTUAL_KEY | {"max_connections": " 7 "})
    assert [read_settings(extra).max_connections for extra in extras] == [100, 7]
    verify = (False, " False ", "true")
    assert [read_settings(VIRTUAL_KEY | {"verify": value}).verify for value in verify] == [False, False, True]


@pytest.mark.parametrize("name", ["timeout", "connect_timeout", "max_connections"])
def test_the_connection_form_states_the_default(name: str) -> None:
    help_text = CONNECTION_TYPE["conn-fields"][name]["description"]
    assert help_text.endswith(f" Default: {getattr(PLAIN, name):g}.")


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_of_the_connection_form_is_read_and_checked(name: str) -> None:
    with pytest.raises(PortkeyInputError, match=f"extra: {name} must be "):
        read_settings(VIRTUAL_KEY | {name: ["x"]})


@pytest.mark.parametrize(
    ("password", "extra", "problems"), PROBLEMS, ids=[f"{problem[1]!a:.60}" for problem in PROBLEMS]
)
def test_an_invalid_connection_raises_with_all_its_problems(
    password: str | None, extra: Any, problems: list[str]
) -> None:
    with pytest.raises(PortkeyInputError) as caught:
        read_settings(extra, password)
    found = problems_in(caught.value)
    assert len(found) == len(problems), found
    assert [words for words, problem in zip(problems, found, strict=True) if words not in problem] == []


def test_every_credential_is_a_secret_and_repr_shows_none() -> None:
    assert set(SECRETS) <= set(WITH_SECRETS.secrets)
    assert "openai" not in WITH_SECRETS.secrets and read_settings({"provider": "openai"}).secrets == (API_KEY,)
    assert "my_portkey" in repr(WITH_SECRETS)
    assert [secret for secret in SECRETS if secret in repr(WITH_SECRETS)] == []


@hypothesis(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.floats()), st.text(), st.text("a@:/[]?#1. \\é"))
@example({"managed": True}, "é", "a")
def test_any_connection_gives_settings_or_raises_an_input_error(extra: Any, password: str, host: str) -> None:
    try:
        settings = read_settings(extra, password, host=host)
    except PortkeyInputError:
        return
    assert re.fullmatch(r"https?://[^\s?#@]+/v1", settings.base_url)
    assert all(text and text.isascii() and text.isprintable() for header in settings.headers for text in header)
    assert 0 < settings.connect_timeout <= settings.timeout < math.inf
