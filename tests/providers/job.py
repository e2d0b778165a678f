"""How the jobs behind the gateway end, whichever provider runs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

#: What becomes of a request: "unreached" is one that an expired batch never came to.
Fate: TypeAlias = Literal["answered", "failed", "lost", "unreached"]
K = TypeVar("K")


@dataclass(frozen=True)
class Ending:
    """
    How a job ends.

    :param expired: whether its time runs out after half of its requests
    :param failed: the custom_id of each request that fails
    :param lost: the custom_id of each request of which nothing comes back
    :param polls: how many times the job is in flight when it is retrieved, before it has ended
    """

    expired: bool = False
    failed: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    polls: int = 2

    def fates(self, custom_ids: Iterable[str], *, is_cut_short: bool = False) -> dict[str, Fate]:
        """Return what becomes of each request; a job that is cancelled is cut short as one that expires."""
        ids = list(custom_ids)
        reached = len(ids) // 2 if self.expired or is_cut_short else len(ids)
        return {each: self._fate(each, is_reached=n < reached) for n, each in enumerate(ids)}

    def _fate(self, custom_id: str, *, is_reached: bool) -> Fate:
        if not is_reached:
            return "unreached"
        return "failed" if custom_id in self.failed else "lost" if custom_id in self.lost else "answered"


@dataclass
class Job:
    """
    A job of any provider, which advances each time it is retrieved.

    :param id: the provider's id
    :param request: what it was created with
    :param ending: how it ends
    :param record: what the provider shows of it, besides its status
    """

    id: str
    request: Mapping[str, Any]
    ending: Ending
    record: dict[str, Any] = field(default_factory=dict)
    retrieved: int = 0
    cancelled_at: int | None = None
    has_ended: bool = False

    def advance(self) -> bool:
        """Count a retrieval, and return whether the job has just ended: its output is to be written then."""
        self.retrieved += 1
        has_ended, self.has_ended = self.has_ended, self.state in ("ended", "expired", "cancelled")
        return self.has_ended and not has_ended

    @property
    def state(self) -> str:
        """The state when it was last retrieved: queued, running, ended, expired, cancelling or cancelled."""
        if self.cancelled_at is not None:
            return "cancelled" if self.retrieved > self.cancelled_at + 1 else "cancelling"
        if self.retrieved > self.ending.polls:
            return "expired" if self.ending.expired else "ended"
        return "running" if self.retrieved > 1 else "queued"

    def fates(self, custom_ids: Iterable[str]) -> dict[str, Fate]:
        """Return what becomes of each request."""
        return self.ending.fates(custom_ids, is_cut_short=self.cancelled_at is not None)

    def cancel(self) -> bool:
        """Begin to cancel; returns whether the job was in flight."""
        if self.has_ended:
            return False
        if self.cancelled_at is None:
            self.cancelled_at = self.retrieved
        return True


class Jobs(dict[str, Job]):
    """The jobs of a provider by id, in the order of their creation."""

    def newest_first(self) -> Iterator[Job]:
        """Iterate over them as most lists do."""
        return reversed(self.values())
