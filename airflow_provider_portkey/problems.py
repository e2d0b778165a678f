"""All problems of one input, collected before the input is rejected."""

from __future__ import annotations

from typing import Any

from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.text import MAX_FIRST_LINE, message, shorten

#: The last line of errors about input.
NOTHING_SENT = "Nothing was sent."


class Problems(list[str]):
    """Collects what is wrong with an input, so that its author learns all of it at once."""

    def collect(self, check: Any, *args: Any) -> Any:
        """Return what ``check(*args)`` returns; if it raises ``ValueError``, keep the problems and return ``None``."""
        try:
            return check(*args)
        except ValueError as error:
            self.extend(map(str, error.args))
            return None

    def raise_any(self) -> None:
        """
        Hand the problems to the :class:`Problems` of the caller.

        :raises ValueError: with one argument per problem, if there are any
        """
        if self:
            raise ValueError(*self)

    def as_error(self, subject: str, *details: str, unlisted: int = 0) -> PortkeyInputError:
        """
        Return the error that lists the problems; its first line has the first one.

        :param subject: what is invalid
        :param details: further lines
        :param unlisted: how many more problems there are
        """
        count = len(self) + unlisted
        if count == 1:
            return PortkeyInputError(message(f"{subject}: {self[0]}", *details, NOTHING_SENT))
        lines = [f"  - {problem}" for problem in self] + [f"  - … and {unlisted:,} more"] * (unlisted > 0)
        first_line = shorten(f"{subject}, {count:,} problems: {self[0]}", MAX_FIRST_LINE)
        return PortkeyInputError(message(first_line, *lines, *details, NOTHING_SENT))
