"""Which headers carry a secret: what is masked in logs, and what a task may not hold."""

from __future__ import annotations

import pytest

from airflow_provider_portkey.headers import is_credential_header, looks_like_credential
from tests.support.calls import API_KEY, VIRTUAL_KEY, read_settings

#: Headers that the gateway or any HTTP server reads, and a value of each that a log must go on showing.
READABLE = {
    "accept-encoding": "gzip, deflate",
    "x-portkey-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:eu-west-1:123456789012:key/1234abcd",
    "x-portkey-aws-region": "eu-west-1",
    "x-portkey-aws-role-arn": "arn:aws:iam::123456789012:role/batch",
    "x-portkey-aws-s3-bucket": "batches",
    "x-portkey-aws-s3-object-key": "jobs/sk-2026/requests.jsonl",
    "x-portkey-azure-api-version": "2026-01-01-preview",
    "x-portkey-azure-auth-mode": "entra",
    "x-portkey-azure-deployment-id": "gpt-5-batch",
    "x-portkey-azure-resource-name": "acme-sweden",
    "x-portkey-custom-host": "https://llm.example.com:8443/v1",
    "x-portkey-file-purpose": "batch",
    "x-portkey-metadata": '{"team": "search"}',
    "x-portkey-provider": "openai",
    "x-portkey-provider-file-name": "pk-batch-0001.jsonl",
    "x-portkey-provider-model": "anthropic.claude-sonnet-4-5",
    "x-portkey-trace-id": "nightly-2026-11-25",
    "x-portkey-vertex-project-id": "acme-prod",
    "x-portkey-vertex-region": "europe-west4",
    "x-portkey-vertex-storage-bucket-name": "batches",
    "anthropic-version": "2023-06-01",
    "openai-organization": "org-acme",
}
CREDENTIAL_HEADERS = [
    "authorization",
    "Proxy-Authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-portkey-api-key",
    "x-portkey-virtual-key",
    "x-portkey-config",
    "x-portkey-aws-access-key-id",
    "x-portkey-aws-secret-access-key",
    "x-portkey-aws-session-token",
    "x-portkey-azure-ad-token",
    "x-portkey-azure-entra-client-secret",
    "x-portkey-oracle-key-passphrase",
    "x-portkey-oracle-private-key",
    "x-portkey-vertex-service-account-json",
    "x-auth",
    "x-db-password",
    "x-client-credentials",
]
CREDENTIALS = [
    "Bearer abc",
    "bearer  abc",
    "Basic c2NvdHQ6dGlnZXI=",
    API_KEY,
    "sk-proj-0123456789abcdef",
    "gsk_0123456789abcdef",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "ya29.a0AfH6SMBx",
    "-----BEGIN PRIVATE KEY----- MIIE",
    "https://scott:tiger@llm.example.com/v1",
    "https://acme.blob.core.windows.net/batches?sv=2024&sig=abc",
]


@pytest.mark.parametrize(("name", "value"), READABLE.items(), ids=READABLE)
def test_a_header_that_says_what_a_batch_is_or_where_stays_readable(name: str, value: str) -> None:
    extra = VIRTUAL_KEY if name != "x-portkey-provider" else {}
    settings = read_settings(extra | {"headers": {name: value}})
    assert settings.redact(f"No such thing: {value}") == f"No such thing: {value}"
    assert value not in settings.secrets
    assert not is_credential_header(name) and not looks_like_credential(value)


@pytest.mark.parametrize("name", CREDENTIAL_HEADERS)
def test_a_header_with_the_name_of_a_credential_is_one_and_its_value_is_a_secret(name: str) -> None:
    assert is_credential_header(name) and is_credential_header(name.upper())
    if name not in ("x-portkey-api-key", "x-portkey-virtual-key"):  # fields of the connection
        assert "stored-value" in read_settings(VIRTUAL_KEY | {"headers": {name: "stored-value"}}).secrets


@pytest.mark.parametrize("value", CREDENTIALS)
def test_a_credential_is_a_secret_even_in_a_header_that_is_readable(value: str) -> None:
    assert looks_like_credential(f" {value} ")
    settings = read_settings(VIRTUAL_KEY | {"headers": {"x-portkey-metadata": value}})
    assert "***" in settings.redact(f"Invalid header: {value}") and value not in settings.redact(value)


def test_the_value_of_an_unknown_header_is_a_secret() -> None:
    assert "hush-hush" in read_settings(VIRTUAL_KEY | {"headers": {"x-acme-team": "hush-hush"}}).secrets
