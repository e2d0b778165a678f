"""
What can go wrong: one class per outcome.

Classes that are also an :class:`~airflow.exceptions.AirflowFailException` or an
:class:`~airflow.exceptions.AirflowSensorTimeout` fail a task at once, since a retry would end the same way. Airflow may
retry the others.

============================================  ======  ==================================================================
raised                                        retry?  by
============================================  ======  ==================================================================
:class:`PortkeyInputError`                    no      every call, operator and sensor, before anything is sent
:class:`PortkeyConnectionNotFoundError`       yes     every call, operator and sensor, before anything is sent
:class:`PortkeyRefusedError`                  no      every call
:class:`PortkeyTransientError`                yes     every call; a wait logs it and continues to poll
:class:`PortkeyOutcomeUnknownError`           yes     ``create_batch`` and the create operator
:class:`PortkeyQuotaError`                    yes     ``create_batch`` and the create operator, also after a wait
:class:`PortkeyAttemptUnknownError`           no      the create operator with ``on_unknown="fail"``
:class:`PortkeyBatchNotReadyError`            yes     the download operator, and retrieve if it does not wait
:class:`PortkeyBatchFailedError`              no      the sensor, and the retrieve, create and download operators
:class:`PortkeyBatchExpiredError`             no      the sensor, and the retrieve, create and download operators
:class:`PortkeyBatchCancelledError`           no      the sensor, and the retrieve, create and download operators
:class:`PortkeyBatchEndedError`               no      these too: completed, but not allowed, or without answers
:class:`PortkeyRequestsFailedError`           no      the sensor, and the retrieve and create operators
:class:`PortkeyBatchTimeoutError`             no      the sensor, and the retrieve and create operators that wait
:class:`PortkeyEventError`                    no      any deferred task
:class:`PortkeyError`                         yes     the create operator, after its task was killed, or if the store of
                                                      its attempts fails
============================================  ======  ==================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout

if TYPE_CHECKING:
    from airflow_provider_portkey.batch import Batch

Origin = Literal["portkey", "provider", "gateway", "network"]


class PortkeyError(AirflowException):
    """Base of all errors of this provider. The first line of its text says cause and remedy."""


class PortkeyInputError(PortkeyError, AirflowFailException, ValueError):
    """A connection or an argument is invalid. Nothing was sent."""


class PortkeyConnectionNotFoundError(PortkeyError):
    """
    Airflow found no such connection.

    Airflow reports the same when a secrets backend does not respond, so the task may be retried.
    """


class PortkeyApiError(PortkeyError):
    """
    A call failed.

    :param message: who refused or failed, what was asked for, what to change
    :param status_code: the HTTP status, ``None`` without a response
    :param origin: who failed: ``"portkey"``, the ``"provider"`` behind it, the ``"network"``, or ``"gateway"`` where
        the response does not show whether Portkey or a proxy in front of it responded
    :param retry_after: seconds that the response asked to wait, ``None`` if it did not
    :param is_foreign: whether the response is neither Portkey's nor a provider's JSON, so that something in front of
        the gateway may have sent it
    :param response_text: what the response said, without the connection's secrets; empty without a response
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
        is_foreign: bool = False,
        response_text: str = "",
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.origin = origin
        self.retry_after = retry_after
        self.is_foreign = is_foreign
        self.response_text = response_text


class PortkeyTransientError(PortkeyApiError):
    """
    The call may succeed later: no connection, a rate limit, a fault of the service, an unreadable response.

    :param was_sent: whether any of the request may have arrived; the others are those of :class:`PortkeyApiError`
    """

    def __init__(self, message: str, *, was_sent: bool = True, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.was_sent = was_sent


class PortkeyOutcomeUnknownError(PortkeyApiError):
    """A call that must not be repeated failed, but may have had an effect."""


class PortkeyQuotaError(PortkeyApiError):
    """The provider's queue of batches is full. Nothing was processed or paid, and a later attempt can succeed."""


class PortkeyRefusedError(PortkeyApiError, AirflowFailException):
    """The call was refused, and will be refused again until somebody changes the key, the connection or the id."""


class PortkeyAttemptUnknownError(PortkeyError, AirflowFailException):
    """
    Creating a batch may pay twice, and the task has ``on_unknown="fail"``.

    Either it cannot be determined whether a previous attempt created one, or its batch for other requests is in flight.
    """


class PortkeyBatchNotReadyError(PortkeyError):
    """The batch is in flight, and the task does not wait."""


class PortkeyBatchTimeoutError(PortkeyError, AirflowSensorTimeout):
    """The batch had not ended within the task's ``timeout``."""


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
    """The batch did not complete within its completion window."""


class PortkeyBatchCancelledError(PortkeyBatchEndedError):
    """The batch was cancelled."""


class PortkeyRequestsFailedError(PortkeyBatchEndedError):
    """The batch ended well, but more of its requests failed than ``fail_on_request_errors`` allows."""


class PortkeyEventError(PortkeyError, AirflowFailException):
    """A trigger's event is invalid, or is about another batch: nothing of it is used."""
