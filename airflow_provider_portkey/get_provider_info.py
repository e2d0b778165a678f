"""What Airflow reads when it discovers providers, in every process: plain data, no imports."""

from __future__ import annotations

from typing import Any


def _field(label: str, description: str, type_: str = "string", **schema: Any) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": [type_, "null"], **schema}}


CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "portkey",
    "hook-class-name": "airflow_provider_portkey.hooks.portkey.PortkeyHook",
    "hook-name": "Portkey",
    "ui-field-behaviour": {
        # The port stays: Airflow 3.3's form does not test a connection without one.
        "hidden-fields": ["login", "schema"],
        "relabeling": {"host": "Base URL", "password": "Portkey API Key"},
        "placeholders": {
            "host": "https://api.portkey.ai/v1",
            "port": "443",
            "extra": '{"virtual_key": "openai-prod"}',
        },
    },
    "conn-fields": {
        "virtual_key": _field(
            "Virtual Key",
            "Slug of the provider credential in Portkey, such as openai-prod. Set Virtual Key, Provider or Config, or "
            "enable Managed.",
            format="password",
        ),
        "provider": _field(
            "Provider",
            "The same slug with an @, such as @openai-prod. Or a provider's name, such as openai, with its API key in "
            "Headers.",
        ),
        "config": _field("Config", "Id of a Portkey config (pc-...), or the config as JSON.", format="password"),
        "managed": _field(
            "Managed",
            "Use Portkey's own managed batches (pk_batch_...) instead of a provider's.",
            "boolean",
        ),
        "headers": _field("Headers", "Additional headers of each request, as a JSON object.", format="password"),
        "auth": _field(
            "Auth",
            "Header with the API key: x-portkey-api-key (portkey, the default) or Authorization (bearer).",
            enum=["portkey", "bearer"],
        ),
        "timeout": _field("Timeout", "Timeout of a request in seconds, connecting included. Default: 90.", "number"),
        "connect_timeout": _field(
            "Connect Timeout", "Timeout for connecting in seconds, part of Timeout. Default: 10.", "number"
        ),
        "max_connections": _field(
            "Max Connections",
            "Maximum number of requests that a triggerer has in flight. Default: 100.",
            "integer",
            minimum=1,
        ),
        "verify": _field(
            "Verify",
            "Verify the server's certificate: true (default), false, or the path of a file of CA certificates.",
        ),
        "proxy": _field(
            "Proxy",
            "URL of an HTTP proxy. Default: HTTPS_PROXY or HTTP_PROXY of the environment.",
            format="password",
        ),
    },
}


def get_provider_info() -> dict[str, Any]:
    """Return what Airflow registers of this package: the entry point ``apache_airflow_provider``."""
    name = "Portkey"
    package = "airflow_provider_portkey"

    def modules(*paths: str) -> list[dict[str, Any]]:
        return [{"integration-name": name, "python-modules": [f"{package}.{path}" for path in paths]}]

    return {
        "package-name": "airflow-provider-portkey",
        "name": name,
        # The providers page takes each word with a URL as a link: no punctuation may follow it.
        "description": "`Portkey <https://portkey.ai/>`__ batches of LLM requests: create, wait, cancel, download.",
        "integrations": [
            {
                "integration-name": name,
                "external-doc-url": "https://portkey.ai/docs/product/ai-gateway/batches",
                "tags": ["ai"],
            }
        ],
        "hooks": modules("hooks.portkey"),
        "operators": modules("operators.batch"),
        "sensors": modules("sensors.batch"),
        "triggers": modules("triggers.batch", "triggers.batch_ended"),
        "connection-types": [CONNECTION_TYPE],
    }
