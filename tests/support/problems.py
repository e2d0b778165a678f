"""Errors that list all problems of an input."""

from __future__ import annotations

import re

MAX_FIRST_LINE = 100


def listed_problems(error: Exception, subject: str, *details: str) -> list[str]:
    """Return the problems that ``error`` lists, and check the form of its message: ``details`` follow the problems."""
    first_line, *others = str(error).split("\n")
    assert len(first_line) <= MAX_FIRST_LINE, error
    end = [*details, "Nothing was sent."]
    assert others[-len(end) :] == end, error
    others = others[: -len(end)]
    if others and others[0].startswith("  - "):
        assert all(line.startswith("  - ") for line in others), error
        problems = [line.removeprefix("  - ") for line in others]
        unlisted = re.fullmatch(r"… and ([\d,]+) more", problems[-1])
        count = len(problems) - 1 + int(unlisted[1].replace(",", "")) if unlisted else len(problems)
        start = f"{subject}, {count:,} problems: "
        assert first_line.startswith(start), error
        assert problems[0].startswith(first_line.removeprefix(start).removesuffix("…")), error
        return problems
    # A single problem is in the first line. If it does not fit, the message repeats it in full.
    [whole] = others or [first_line]
    assert whole.startswith(f"{subject}: "), error
    assert whole.startswith(first_line.removesuffix("…")), error
    return [whole.removeprefix(f"{subject}: ")]
