"""
Which headers carry a secret: by name for what is masked, and by the look of a credential for what a task may not hold.

.. seealso:: https://portkey.ai/docs/api-reference/inference-api/headers
"""

from __future__ import annotations

import re

#: The headers whose values stay readable: they say what a batch is and where. Any other value is a secret. Masking a
#: provider's name, a region or a bucket wherever the word occurs would hide what a log is about.
READABLE_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "idempotency-key",
        "openai-beta",
        "openai-organization",
        "openai-project",
        "traceparent",
        "user-agent",
        "x-request-id",
        *(
            f"x-portkey-{name}"
            for name in (
                "amz-server-side-encryption",
                "amz-server-side-encryption-aws-kms-key-id",
                "amzn-sagemaker-model-name",
                "amzn-sagemaker-target-model",
                "amzn-sagemaker-target-variant",
                "anthropic-beta",
                "anthropic-version",
                "aws-auth-type",
                "aws-bedrock-model",
                "aws-region",
                "aws-role-arn",
                "aws-s3-bucket",
                "aws-s3-object-key",
                "azure-api-version",
                "azure-auth-mode",
                "azure-deployment-id",
                "azure-endpoint-name",
                "azure-entra-client-id",
                "azure-entra-scope",
                "azure-entra-tenant-id",
                "azure-extra-params",
                "azure-foundry-url",
                "azure-managed-client-id",
                "azure-model-name",
                "azure-resource-name",
                "azure-workload-client-id",
                "cache",
                "cache-force-refresh",
                "cache-namespace",
                "custom-host",
                "debug",
                "file-purpose",
                "file-upload-size",
                "fireworks-account-id",
                "forward-headers",
                "huggingface-base-url",
                "metadata",
                "mode",
                "openai-beta",
                "openai-organization",
                "openai-project",
                "oracle-api-version",
                "oracle-compartment-id",
                "oracle-region",
                "oracle-serving-mode",
                "oracle-tenancy",
                "provider",
                "provider-batch-endpoint",
                "provider-file-name",
                "provider-model",
                "request-timeout",
                "retry-count",
                "snowflake-account",
                "span-id",
                "span-name",
                "strict-open-ai-compliance",
                "trace-id",
                "vertex-project-id",
                "vertex-region",
                "vertex-storage-bucket-name",
                "workers-ai-account-id",
            )
        ),
    }
)
# What the names of headers with a credential have in them: each provider behind Portkey has its own.
_CREDENTIAL_NAME = re.compile(
    r"auth(?!or\b)|cookie|secret|passw|passphrase|credential|signature|jwt|access-key|service-account"
    r"|^x-portkey-config$|(key|token)s?$"
)
# HTTP's schemes, a URL's password, private keys, and keys as providers write them: whole, so that no file name is one.
_CREDENTIAL_VALUE = re.compile(
    r"(?s)(?i:bearer|token) +\S+|(?i:basic) +[\w+/=-]{8,}|(?i:https?)://[^/?#]*:[^/?#]*@.*|.*-----BEGIN .*|.*[?&]sig=.*"
    r"|([spr]k|xai)-[\w-]{8,}|(gsk|hf|r8|gh[a-z])_\w{8,}|A[KS]IA[0-9A-Z]{12,}|AIza[\w-]{20,}|ya29\..+|eyJ[\w-]{8,}.*"
)


def is_credential_header(name: str) -> bool:
    """Whether a header's name says that it carries a credential."""
    return name.lower() not in READABLE_HEADERS and bool(_CREDENTIAL_NAME.search(name.lower()))


def looks_like_credential(value: str) -> bool:
    """Whether a header's value looks like a credential, whatever its name."""
    return bool(_CREDENTIAL_VALUE.fullmatch(value.strip()))
