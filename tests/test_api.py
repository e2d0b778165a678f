from __future__ import annotations

import copy
import json
import math
import pickle
import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from airflow_provider_portkey import api, exceptions
from airflow_provider_portkey.batch import Batch, BatchStatus
from airflow_provider_portkey.exceptions import PortkeyApiError, PortkeyError, PortkeyInputError
from airflow_provider_portkey.exceptions import PortkeyRefusedError as Refused
from airflow_provider_portkey.exceptions import PortkeyTransientError as Transient
from tests.test_batch import JSON

KEY = "pk-0123456789abcdef"
VK: dict[str, Any] = {"virtual_key": "vk-stored-slug"}
HIDDEN = VK | {
    "config": {"retry": {"attempts": 3}, "targets": [{"provider": "openai", "api_key": "sk-6f1e2d3c4b5a"}]},
    "headers": {"Authorization": "bearer sk-a0b9c8d7e6f5", "x-portkey-aws-secret-access-key": "wJalrXUtnFEMI/K7MDENG"},
    "proxy": "http://scott:tiger-tiger@proxy.example:3128",
}
SECRETS = [KEY, "vk-stored-slug", "sk-6f1e2d3c4b5a", "sk-a0b9c8d7e6f5", "wJalrXUtnFEMI/K7MDENG", "tiger-tiger"]


def connect(extra: Any, password: str | None = KEY, **fields: Any) -> api.Settings:
    text = extra if isinstance(extra, str | None) else json.dumps(extra)
    return api.Settings.from_connection("my_portkey", password=password, extra=text, **fields)


PLAIN, SECRET = connect(VK), connect(HIDDEN)


def read(status: int, body: Any, headers: dict[str, str] | None = None, settings: api.Settings = PLAIN) -> Batch:
    response = api.Response(status, headers or {}, body if isinstance(body, bytes) else json.dumps(body).encode())
    return api.read_batch(response, api.retrieve_batch(settings, "batch_1"), settings, "batch_1")


def failure(*args: Any) -> PortkeyApiError:
    with pytest.raises(PortkeyApiError) as caught:
        read(*args)
    return caught.value


# The base URL, and what a user may paste as host, or have as host, port and schema of a URI.
BASE_URLS: dict[str, list[Any]] = {
    "https://api.portkey.ai/v1": [None, "", " "],
    "https://gw.example/v1": ["https://gw.example/v1", "https://gw.example/v1/", " https://gw.example/ ", "GW.example"],
    "http://localhost:8787/v1": ["http://localhost:8787", "http://localhost:8787/v1/", ("localhost", 8787, "http")],
    "https://gw.example:8443/v1": ["gw.example:8443", ("gw.example", 8443, "v1"), ("gw.example:8443", 1, "https")],
    "https://gw.example/ai/v1": ["gw.example//ai/v1/", ("gw.example", None, "/ai/v1/"), ("gw.example/ai", None, "v1")],
    "http://[2001:db8::1]:8787/v1": ["http://[2001:db8::1]:8787/v1", ("http://[2001:db8::1]", 8787, "v1")],
    "https://[::1]/v1": ["[::1]", ("[::1]", None, "v1"), ("::1", None, "v1")],
}
NO_BASE_URLS = {
    "must not hold a user or password": ["https://me:tiger@gw.example/v1", "tiger@gw.example"],
    "no '?' and no '#'": ["https://gw.example/v1?key=tiger", "https://gw.example/v1#tiger"],
    "no white space and no backslash": ["https://gw.example/v 1", "https://gw.example\\v1"],
    "must be a base URL such as": ["ftp://gw.example", "https://"],
    "not a base URL": ["https://gw.example:port", "https://[::1"],
}
BY_KEY, SELF_HOSTED = {"x-portkey-api-key": "k"}, {"authorization": "B", "x-portkey-provider": "o"}
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
ONE_OF = "one of virtual_key, provider and config is missing"
NO_SECONDS: list[Any] = ["soon", 0, -1, math.inf, math.nan, [], True, 10**400]
NO_COUNTS: list[Any] = [0, -1, "many", 1.5, True, [], 10**9, "१"]
NO_PROXIES: list[Any] = ["proxy.example:3128", "socks5://proxy", "http://", "http://proxy:port", 8080]
# The password, the extra; what each line of the message says.
WRONG: list[tuple[str | None, Any, list[str]]] = [
    (None, None, ["password: the Portkey API key is missing", ONE_OF]),
    *[(KEY, no, ["must be a JSON object"]) for no in ("{", "[]", "[" * 100_000)],
    (KEY, VK | {"virtualkey": "v", "z": 1}, ["no such field: virtualkey, z (there are auth, config, "]),
    (KEY, {"managed": True, "provider": "o"}, ["managed is true, but x-portkey-provider names a provider"]),
    (KEY, {"managed": "yes", "provider": "o"}, ["managed must be true or false, got 'yes'"]),
    (KEY, VK | {"auth": "basic"}, ["auth must be 'portkey' or 'bearer', got 'basic'"]),
    (KEY, {"virtual_key": 5}, ["virtual_key must be a string, got int"]),
    (KEY, {"provider": "a\nb"}, ["provider: holds line breaks"]),
    (KEY, {"provider": "  "}, [ONE_OF]),
    ("pk-é", VK, ["password: holds line breaks or characters that a header can't carry"]),
    (KEY, {"config": '{"a"'}, ["config looks like JSON, but is not"]),
    (KEY, VK | {"headers": ["x"]}, ["headers must be a JSON object"]),
    (KEY, VK | {"headers": {"a b": "c", "x-d": [], "x-e": "\n"}}, ["'a b', which can't name", "'x-d'", "'x-e'"]),
    (KEY, VK | {"headers": {"X-Portkey-Api-Key": "o"}}, ["'x-portkey-api-key', which password gives too"]),
    (KEY, VK | {"headers": {"x-portkey-virtual-key": "o"}}, ["which extra: virtual_key gives too"]),
    (KEY, VK | {"auth": "bearer", "headers": {"authorization": "o"}}, ["password, with auth 'bearer' gives too"]),
    *[(KEY, VK | {"timeout": no}, ["timeout must be a number of seconds above 0"]) for no in NO_SECONDS],
    *[(KEY, VK | {"proxy": no}, ["proxy must be a URL"]) for no in NO_PROXIES],
    *[(KEY, VK | {"max_connections": no}, ["max_connections must be a whole number"]) for no in NO_COUNTS],
    (
        KEY,
        VK | {"verify": 3, "connect_timeout": 0, "z": 1},
        ["no such field: z", "connect_timeout must", "verify must"],
    ),
]


class TestSettings:
    @pytest.mark.parametrize(
        ("given", "made"), [(given, url) for url in BASE_URLS for given in BASE_URLS[url]], ids=str
    )
    def test_base_url(self, given: Any, made: str) -> None:
        host, port, schema = given if isinstance(given, tuple) else (given, None, None)
        assert connect(VK, host=host, port=port, schema=schema).base_url == made

    @pytest.mark.parametrize(("words", "hosts"), NO_BASE_URLS.items(), ids=NO_BASE_URLS)
    def test_what_is_no_base_url_is_refused(self, words: str, hosts: list[str]) -> None:
        for host in hosts:
            with pytest.raises(PortkeyInputError, match=re.escape(words)) as caught:
                connect(VK, host=host)
            assert str(caught.value).count("\n") == 1 and "tiger" not in str(caught.value)

    @pytest.mark.parametrize(("password", "extra", "headers"), HEADERS.values(), ids=HEADERS)
    def test_headers(self, password: str | None, extra: dict[str, Any], headers: dict[str, str]) -> None:
        sent = dict(connect(extra, password).headers)
        assert sent.pop("user-agent").startswith("airflow-provider-portkey/")
        assert sent == {"accept": "application/json"} | headers

    def test_options(self) -> None:
        assert (PLAIN.timeout, PLAIN.connect_timeout, PLAIN.verify, PLAIN.proxy) == (90, 10, True, None)
        given = connect(VK | {"timeout": "5", "verify": " /etc/ca.pem ", "proxy": " https://u:p@proxy.example:3128 "})
        assert (given.timeout, given.connect_timeout, given.verify) == (5, 5, "/etc/ca.pem")
        assert given.proxy == "https://u:p@proxy.example:3128"
        assert [connect(extra).max_connections for extra in (VK, VK | {"max_connections": " 7 "})] == [100, 7]
        assert [connect(VK | {"verify": no}).verify for no in (False, " False ", "true")] == [False, False, True]

    @pytest.mark.parametrize(("password", "extra", "complaints"), WRONG, ids=[f"{wrong[1]!a:.60}" for wrong in WRONG])
    def test_all_that_is_wrong_is_told_at_once(self, password: str | None, extra: Any, complaints: list[str]) -> None:
        with pytest.raises(PortkeyInputError) as caught:
            connect(extra, password)
        first, *told = str(caught.value).split("\n  - ")
        assert first == "Connection 'my_portkey' can't be used for Portkey:"
        assert len(told) == len(complaints), told
        assert [words for words, line in zip(complaints, told, strict=True) if words not in line] == []

    def test_secrets_are_masked_and_not_shown(self) -> None:
        assert set(SECRETS) <= set(SECRET.secrets)
        assert "openai" not in SECRET.secrets and connect({"provider": "openai"}).secrets == (KEY,)
        assert "my_portkey" in repr(SECRET) and [secret for secret in SECRETS if secret in repr(SECRET)] == []

    @hypothesis(deadline=None)
    @given(
        st.dictionaries(st.sampled_from(sorted(api._EXTRAS)), JSON | st.floats()), st.text(), st.text("a@:/[]?#1. \\é")
    )
    @example({"managed": True}, "é", "a")
    def test_any_connection_makes_settings_or_an_input_error(self, extra: Any, password: str, host: str) -> None:
        try:
            settings = connect(extra, password, host=host)
        except PortkeyInputError:
            return
        assert re.fullmatch(r"https?://[^\s?#@]+/v1", settings.base_url)
        assert all(text and text.isascii() and text.isprintable() for header in settings.headers for text in header)
        assert 0 < settings.connect_timeout <= settings.timeout < math.inf


def openai(message: str) -> dict[str, Any]:
    return {"error": {"message": f"openai error: {message}", "type": "t"}, "provider": "openai"}


def portkey(message: str) -> dict[str, Any]:
    return {"status": "failure", "message": message}


BAD_KEY = portkey("Portkey Error: Invalid API Key. Error Code: 03") | {"error": {"message": "Invalid API Key"}}
HTML = b"<html><h1>Bad\nGateway</h1></html>"
# The HTTP status, its body, the exception, who failed, and words of the message.
FAILURES: list[tuple[int, Any, type[PortkeyApiError], str, str]] = [
    (400, portkey("Following keys are not valid: x"), Refused, "portkey", "not valid: x. Check virtual_key, provider"),
    (400, openai("bad batch_id"), Refused, "provider", "openai error: bad batch_id."),
    (401, BAD_KEY, Refused, "portkey", "Invalid API Key. Check the Portkey API key, the connection's password"),
    (401, openai("Incorrect API key"), Refused, "provider", "the provider's own credential"),
    (403, portkey("Portkey Error: Forbidden!"), Refused, "portkey", "(batches need completions.write)"),
    (403, b"Portkey Error: Forbidden!", Refused, "gateway", "a gateway of its own that the connection's host should"),
    (403, openai("no permission"), Refused, "provider", "lacks a permission"),
    (404, openai("No batch found"), Refused, "provider", "Check batch_id"),
    (404, portkey("Batch not found"), Refused, "portkey", "provider and workspace that the batch was created in"),
    (404, {"message": "Not Found", "ok": False}, Refused, "gateway", "check the connection's host"),
    (408, {"error": {"type": "timeout_error"}}, Transient, "gateway", "timeout_error"),
    (412, {"error": {"type": "budget_exhaust_error"}}, Refused, "gateway", "budget or limit set in Portkey"),
    (429, openai("slow down"), Transient, "provider", "slow down. A rate limit."),
    (429, portkey("limit"), Transient, "portkey", "A rate limit."),
    (446, {"error": {"message": "hooks_failed"}}, Refused, "gateway", "A guardrail set in Portkey denied the call"),
    (500, portkey("Something went wrong"), Transient, "portkey", "Portkey answered HTTP 500"),
    (502, {"html-message": HTML.decode()}, Transient, "gateway", ": Bad Gateway."),
    (502, HTML, Transient, "gateway", ": Bad Gateway."),
    (503, openai("busy"), Transient, "provider", "The provider 'openai' behind Portkey answered HTTP 503"),
    (504, b"", Transient, "gateway", "without a word."),
    (529, b"\xff\0", Transient, "gateway", "The gateway answered HTTP 529"),
    (307, b"", Refused, "gateway", "a redirect to nowhere, which is not followed"),
    (422, [], Refused, "gateway", ": []."),
]
# Where an error's words are looked for, first things first.
PLACES: list[dict[str, Any]] = [
    {"error": {"message": "1"}},
    {"error": "2"},
    {"message": "3"},
    {"message": {"error": "4"}},
    {"data": {"message": "5"}},
    {"html-message": "6"},
]
# What an answer of HTTP 200 brings instead of the batch.
LIES: list[tuple[Any, str]] = [
    (b"", "got NoneType. It says: nothing"),
    (b'{"id": "batch_1", "sta', 'It says: {"id": "batch_1", "sta'),
    (b"[" * 100_000, "got NoneType"),
    ([{"id": "batch_1", "status": "completed"}], "got list"),
    (7, "got int"),
    ({"error": {"message": "denied"}, "provider": "bedrock"}, "no 'id'. It says: denied"),
    ({"id": "batch_1", "object": "batch"}, "no 'status'"),
    ({"id": "batch_2", "status": "completed"}, "is about another batch: 'batch_2'"),
]
HOST, TLS, LIMITS = "Check the connection's host", "signed by a private CA", "The limits are timeout=90 s for a request"
NO_ANSWERS = [
    (ConnectionRefusedError(111, "Connection refused"), HOST),
    (OSError("Cannot connect to host gw.example:443 ssl:default [Connect call failed]"), HOST),  # as aiohttp says it
    (OSError("HTTPSConnectionPool: Max retries exceeded with url: /v1/batches/b_aTLs9"), HOST),
    (OSError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"), TLS),
    (OSError("certificate verify failed: certificate has expired"), TLS),
    (TimeoutError(), LIMITS),
    (OSError("Read timed out. (read timeout=90)"), LIMITS),
]


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "body", "kind", "origin", "words"), FAILURES, ids=[f"{f[3]} says {f[0]}: {f[4]}" for f in FAILURES]
    )
    def test_who_refused_and_what_to_change(self, status: int, body: Any, kind: Any, origin: str, words: str) -> None:
        error = failure(status, body)
        assert (type(error), error.status_code, error.origin, error.retry_after) == (kind, status, origin, None)
        asked = f"HTTP {status} to retrieving batch 'batch_1' (connection 'my_portkey') at https://api.portkey.ai/v1"
        assert asked in str(error) and words in str(error)
        assert ("Portkey does not know" in str(error)) is ((status, origin) == (400, "portkey"))

    def test_headers_tell_too(self) -> None:
        by_provider = {"x-portkey-provider": "openai"}
        assert [failure(code, BAD_KEY, by_provider).origin for code in (401, 500)] == ["portkey", "portkey"]
        assert [failure(code, b"no", by_provider).origin for code in (401, 500)] == ["provider", "gateway"]
        assert failure(429, b"", {"retry-after": "7"}).retry_after == 7
        redirect = failure(302, b"", {"location": "https://other.example/v1?token=t"})
        assert "redirect to https://other.example/v1, which" in str(redirect)

    def test_the_words_are_found_in_this_order(self) -> None:
        for n in range(6):
            body: dict[str, Any] = {}
            for place in reversed(PLACES[n:]):
                body |= place
            assert str(failure(422, body)).endswith(f": {n + 1}.")

    @pytest.mark.parametrize(("body", "words"), LIES, ids=lambda value: f"{value!r:.60}")
    def test_a_200_that_is_no_batch_may_pass(self, body: Any, words: str) -> None:
        error = failure(200, body)
        assert (type(error), error.status_code, words in str(error)) == (Transient, 200, True)

    @pytest.mark.parametrize("status", [200, 246])
    def test_a_batch_is_judged_by_what_it_is(self, status: int) -> None:
        body = b'\xef\xbb\xbf{"id": "batch_1", "status": "ended"}\n'
        assert read(status, body, {"content-type": "text/plain"}) == Batch("batch_1", BatchStatus.COMPLETED, "ended")

    @pytest.mark.parametrize(("error", "advice"), NO_ANSWERS, ids=str)
    def test_no_answer_at_all(self, error: Exception, advice: str) -> None:
        told = api.no_answer(error, api.list_batches(PLAIN), PLAIN)
        assert (type(told), told.origin, told.status_code) == (Transient, "network", None)
        assert f"{type(error).__name__}: {str(error) or 'no details'}" in str(told)
        assert [words for words in (HOST, TLS, LIMITS) if words in str(told)] == [advice]

    @hypothesis(deadline=None)
    @given(
        st.integers(100, 599) | st.sampled_from([200, 246, 408, 429, 500]),
        st.binary() | JSON | st.fixed_dictionaries({"id": st.just("batch_1"), "status": JSON}),
        st.dictionaries(st.sampled_from(["location", "retry-after", "x-portkey-provider"]), st.text()),
    )
    def test_any_answer_is_a_batch_or_an_api_error(self, status: int, body: Any, headers: dict[str, str]) -> None:
        kind, may_pass = None, status in (408, 429) or status >= 500 or 200 <= status < 300
        try:
            assert read(status, body, headers).id == "batch_1"
        except PortkeyApiError as error:
            kind = type(error)
        assert kind is (Transient if may_pass else Refused) or (kind is None and 200 <= status < 300)

    def test_a_long_answer_is_cut_short(self) -> None:
        long = "x" * 10_000
        for body in (portkey(long), long.encode(), {"provider": long}, {long: 1}, {"id": long, "status": long}):
            for status in (200, 302, 500):
                assert len(str(failure(status, body, {"location": long}))) < 1500

    @pytest.mark.parametrize(
        "place", ["message", "error", "id", "provider", "odd", "a name", "data", "the text", "a list"]
    )
    @hypothesis(deadline=None)
    @given(st.sampled_from([200, 302, 401, 500]), st.sampled_from([*SECRETS, *SECRET.secrets]), st.integers(0, 420))
    @example(401, KEY, 25)  # where a provider's name, a list and a message are cut
    @example(200, KEY, 185)
    @example(500, KEY, 285)
    def test_no_message_holds_a_piece_of_a_secret(self, place: str, status: int, secret: str, at: int) -> None:
        text = f"{'.' * at} {secret} "
        odd = {"a name": {text: 1}, "data": {"data": {"message": text}}, "the text": text.encode(), "a list": [text]}
        body = odd.get(place, {place: text, "status": None})
        error = failure(status, body, {"location": text, "x-portkey-provider": text}, SECRET)
        no_answer = api.no_answer(OSError(text), api.list_batches(SECRET), SECRET)
        pieces = {one[start : start + 8] for one in SECRETS for start in range(len(one) - 7)}
        assert [piece for piece in pieces if piece in f"{error} {error!r} {no_answer}"] == []

    def test_what_is_no_secret_is_shown(self) -> None:
        assert ": Use openai, not ***. " in str(failure(400, portkey(f"Use openai, not {KEY}")))


NOW = 784111777.0  # 08:49:37 in the dates below
# The seconds, and what says so.
ASKED: dict[float | None, list[str | dict[str, str]]] = {
    None: [{}, "soon", "", "nan", "inf", "Sun, 99 Nov 1994 08:50:07 GMT"],
    0: ["0", "-5", "Sun, 06 Nov 1994 08:00:00 GMT"],
    0.25: [" .25 ", {"retry-after-ms": "250", "retry-after": "9"}, {"x-ms-retry-after-ms": "250", "retry-after": "9"}],
    9: ["9", {"retry-after-ms": "soon", "retry-after": "9"}],
    30: ["Sun, 06 Nov 1994 08:50:07 GMT", "Sunday, 06-Nov-94 08:50:07 GMT", "Sun Nov  6 08:50:07 1994"],
    api.MAX_RETRY_AFTER: ["601", "31536000", "Sun, 06 Nov 2094 08:00:00 GMT"],
}
AGAIN = {
    "a transient failure": (Transient("x"), True),
    "one that asks for a short pause": (Transient("x", retry_after=10), True),
    "one that asks for a long pause": (Transient("x", retry_after=11), False),
    "a batch that the provider does not know yet": (Refused("x", status_code=404, origin="provider"), True),
    "a path that the gateway does not know": (Refused("x", status_code=404, origin="gateway"), False),
    "a wrong key": (Refused("x", status_code=401, origin="provider"), False),
    "something else": (ValueError("x"), False),
}


class TestRetrying:
    @pytest.mark.parametrize(("said", "seconds"), [(said, n) for n in ASKED for said in ASKED[n]], ids=str)
    def test_what_an_answer_asks_for(self, said: Any, seconds: float | None, monkeypatch: Any) -> None:
        monkeypatch.setenv("TZ", "Asia/Tokyo")  # a date without a zone is in GMT all the same
        time.tzset()
        asked = api.retry_after(said if isinstance(said, dict) else {"retry-after": said}, NOW)
        monkeypatch.undo()
        time.tzset()
        assert asked == (None if seconds is None else pytest.approx(seconds))

    @hypothesis(deadline=None)
    @example("nan")
    @given(st.text() | st.floats().map(str) | st.datetimes().map(lambda at: f"{at:%a, %d %b} {at.year} 08:50:07 GMT"))
    def test_it_is_none_or_within_bounds(self, value: str) -> None:
        for name in ("retry-after", "retry-after-ms", "x-ms-retry-after-ms"):
            asked = api.retry_after({name: value}, NOW)
            assert asked is None or 0 <= asked <= api.MAX_RETRY_AFTER

    @pytest.mark.parametrize(("error", "again"), AGAIN.values(), ids=AGAIN)
    def test_which_failures_are_worth_another_attempt(self, error: Exception, again: bool) -> None:
        assert api.is_worth_another_attempt(error) is again

    def test_pauses_grow_and_are_never_shorter_than_asked(self) -> None:
        assert [api.pause(n, None, 0) for n in (1, 2, 3, 9)] == [1, 2, 4, 10]
        assert api.pause(1, Transient("x"), 1) == 1.5
        assert [api.pause(1, Transient("x", retry_after=7), chance) for chance in (0, 1)] == [7, 10.5]


def test_requests_and_the_answer_of_a_list() -> None:
    settings = connect(VK, host="http://gw.example/ai")
    assert api.retrieve_batch(settings, " a/b%2Fc ").url == "http://gw.example/ai/v1/batches/a%2Fb%2Fc"
    assert api.list_batches(settings, limit=1).url == "http://gw.example/ai/v1/batches?limit=1"
    with pytest.raises(PortkeyInputError, match=r"'\.\.' would address another URL\. Nothing was sent"):
        api.retrieve_batch(settings, "..")
    request = api.list_batches(settings, after="a/b&c")
    assert request.url == "http://gw.example/ai/v1/batches?limit=100&after=a%2Fb%26c"
    for no_list in ("null", "[]", "{}", '{"data": {}}', '{"error": {}}'):
        with pytest.raises(Transient, match="a list named 'data'"):
            api.read_page(api.Response(200, {}, no_list.encode()), request, settings)


ERRORS = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, PortkeyError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_exceptions_survive_pickle_and_copy(kind: type[PortkeyError]) -> None:
    details: dict[str, Any] = {}
    if issubclass(kind, PortkeyApiError):
        details = {"status_code": 429, "origin": "provider", "retry_after": 7.0}
        details |= {"was_sent": False} if kind is Transient else {}
    elif issubclass(kind, exceptions.PortkeyBatchEndedError):
        details = {"batch": Batch("b", BatchStatus.EXPIRED, metadata={"a": "b"})}
    error = kind("what happened", **details)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):  # noqa: S301
        assert (type(twin), str(twin), vars(twin)) == (kind, "what happened", details)
