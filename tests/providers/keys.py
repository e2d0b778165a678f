"""The credentials with which the providers are reached: none of them may be in what a test prints, logs or stores."""

from __future__ import annotations

AZURE = "not-a-secret-azure-0123456789"
BEDROCK = "not-a-secret-bedrock-0123456789"
COHERE = "not-a-secret-cohere-0123456789"
#: An access token, so that the gateway need not ask Google for one.
VERTEX = "ya29.not-a-secret-vertex-0123456789"
#: Of Portkey itself, where it is scripted.
PORTKEY = "not-a-secret-portkey-0123456789"

ALL = (AZURE, BEDROCK, COHERE, VERTEX, PORTKEY)
