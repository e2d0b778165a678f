"""
What can go wrong, one class an outcome.

Those that are also an :class:`~airflow.exceptions.AirflowFailException` fail a task at once: another attempt
could not end otherwise. The others may be retried by Airflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout

if TYPE_CHECKING:
    from airflow_provider_portkey.batch import Batch

Origin = Literal["portkey", "provider", "gateway", "network"]


class PortkeyError(AirflowException):
    """Base of all that this provider raises."""


class PortkeyInputError(PortkeyError, AirflowFailException, ValueError):
    """A connection or an argument can't be used as it is. Nothing was sent."""


class PortkeyConnectionNotFoundError(PortkeyError):
    """
    Airflow found no such connection.

    Airflow says the same when a secrets backend does not answer, so the task may be retried.
    """


class PortkeyApiError(PortkeyError):
    """
    A call did not bring a batch.

    :param message: who refused or failed, what was asked for, what to change
    :param status_code: the HTTP status, ``None`` if there was no answer
    :param origin: who failed: ``"portkey"``, the ``"provider"`` behind it, the ``"network"``, or
        ``"gateway"`` where the answer does not tell Portkey from what stands in front of it
    :param retry_after: how many seconds the answer asked to wait, ``None`` if it did not say
    """

    # Airflow's base has a class attribute of this name and another meaning.
    status_code: int | None  # type: ignore[assignment]

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        origin: Origin = "gateway",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.origin = origin
        self.retry_after = retry_after


class PortkeyTransientError(PortkeyApiError):
    """
    The call may succeed later: no connection, a rate limit, a fault of the service, an unreadable answer.

    :param was_sent: whether any of it may have arrived; the others are those of :class:`PortkeyApiError`
    """

    def __init__(self, message: str, *, was_sent: bool = True, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.was_sent = was_sent


class PortkeyOutcomeUnknownError(PortkeyApiError):
    """A call that must not be sent twice failed, and may have taken effect all the same."""


class PortkeyRefusedError(PortkeyApiError, AirflowFailException):
    """The call was refused and will be again until somebody changes the key, the connection or the id."""


class PortkeyAttemptUnknownError(PortkeyError, AirflowFailException):
    """An earlier attempt may have created a batch, and nothing tells; the task has ``on_unknown="fail"``."""


class PortkeyBatchNotReadyError(PortkeyError):
    """The batch is still in flight and the task was not asked to wait."""


class PortkeyBatchTimeoutError(PortkeyError, AirflowSensorTimeout):
    """The batch had not ended when the task's ``timeout`` was over."""


class PortkeyBatchEndedError(PortkeyError, AirflowFailException):
    """
    The batch ended, and not as the task needs it.

    :param message: batch, status, counts, file ids and the provider's errors
    :param batch: the batch as it ended; its files may hold results that were paid for
    """

    def __init__(self, message: str, batch: Batch | None = None) -> None:
        super().__init__(message)
        self.batch = batch


class PortkeyBatchFailedError(PortkeyBatchEndedError):
    """The batch failed as a whole."""


class PortkeyBatchExpiredError(PortkeyBatchEndedError):
    """The batch ran out of its completion window."""


class PortkeyBatchCancelledError(PortkeyBatchEndedError):
    """The batch was cancelled."""


class PortkeyRequestsFailedError(PortkeyBatchEndedError):
    """The batch ended well, but more of its requests failed than ``fail_on_request_errors`` lets pass."""


class PortkeyEventError(PortkeyError, AirflowFailException):
    """A trigger's event is not one of ours, or is about another batch: nothing is taken from it."""
