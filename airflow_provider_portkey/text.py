"""Text for logs, errors and databases: short, with what matters first, and free of what a database rejects."""

from __future__ import annotations

import json
import math
import re
from typing import Any

#: Airflow's log view shows an exception as one line and cuts it at about this many characters.
MAX_FIRST_LINE = 100


def shorten(text: str, limit: int = 200) -> str:
    """Return ``text`` on one line of at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def message(first_line: str, *details: str) -> str:
    """
    Return the text of an error or of a log record.

    :param first_line: cause, remedy, and then what has no fixed length, such as an id. A longer one than
        :data:`MAX_FIRST_LINE` is cut, and follows in full
    :param details: further lines; empty ones are left out
    """
    short = shorten(first_line, MAX_FIRST_LINE)
    whole = () if short == " ".join(first_line.split()) else (first_line,)
    return "\n".join([short, *whole, *filter(None, details)])


def counted(count: int | str, noun: str) -> str:
    """Return a count and its noun, in the plural unless it is one: ``1 request``, ``50,000 requests``."""
    shown = f"{count:,}" if isinstance(count, int) else count
    return f"{shown} {noun}" if shown == "1" else f"{shown} {noun}s"


def sentence(text: str) -> str:
    """Return ``text`` with a full stop, unless it ends a sentence already."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def duration(seconds: float) -> str:
    """Return a duration as people write it: ``90 s``, ``26 h``, ``7 d``."""
    if seconds == math.inf:
        return "no limit"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        # Only a unit that loses less than a hundredth: 26 hours are not a day.
        if seconds >= 2 * size:
            amount = round(seconds / size, 1)
            if abs(amount * size - seconds) <= seconds / 100:
                return f"{amount:g} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.3g} s"


def decode_json(body: bytes) -> Any:
    """
    Decode a response's JSON; return ``None`` if it is not JSON.

    The content type is ignored, since Portkey sends JSON as ``text/plain`` too. NaN, infinities, NUL and lone
    surrogates pass Python's parser but not Airflow's database: they become ``None``, or are removed.
    """
    text = body.decode("utf-8-sig", errors="replace")
    try:
        value = json.loads(text, parse_constant=lambda name: None, parse_float=_finite)
        if re.search(r"\\u(0000|[dD][89a-fA-F])", text):
            value = sanitize_text(value)
    except (ValueError, RecursionError):
        return None
    return value


def sanitize_text(value: Any) -> Any:
    """Return JSON types without what a database rejects in a text: NUL and lone surrogates."""
    if isinstance(value, str):
        return value.replace("\0", "").encode(errors="replace").decode()
    if isinstance(value, list):
        return [sanitize_text(item) for item in value]
    if isinstance(value, dict):
        return {sanitize_text(name): sanitize_text(item) for name, item in value.items()}
    return value


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
