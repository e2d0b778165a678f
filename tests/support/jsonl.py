"""Lines of a batch's files."""

from __future__ import annotations

import json
from typing import Any

ENDPOINT = "/v1/chat/completions"


def request(custom_id: object = "a", **members: object) -> dict[str, Any]:
    """Return a valid request to :data:`ENDPOINT`, except for what ``members`` replace."""
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": {"model": "m"}} | members


def request_line(custom_id: object = "a", **members: object) -> bytes:
    """Return it as JSON, without a line break."""
    return json.dumps(request(custom_id, **members)).encode()
