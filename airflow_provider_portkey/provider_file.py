"""A file at a provider, and how long a batch may have to wait for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """
    A file, as far as its provider describes it.

    :param status: the provider's own word, in lower case; ``None`` if it returned none
    :param reason: why the file cannot be used, in the provider's words; may be empty
    """

    id: str
    status: str | None
    reason: str

    @property
    def has_failed(self) -> bool:
        """Whether no batch can ever read the file."""
        return self.status in ("error", "failed", "deleting", "deleted")

    @property
    def wait(self) -> float:
        """
        How many seconds a batch may have to wait for the file, in all, since its upload.

        Azure and Cohere process a file before a batch can read it, and reject the batch until then. After the longest
        of these waits the batch is created all the same: the provider decides.
        """
        if self.status in ("pending", "processing", "validating", "running", "queued"):
            return 600.0
        # Cohere says "uploaded" while it validates; others never say more than that.
        return 60.0 if self.status in ("uploaded", None) else 0.0
