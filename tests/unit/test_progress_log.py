"""The log of a transfer's progress."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_portkey import files
from airflow_provider_portkey.files import ProgressLogger
from tests.support.recorder import Recorder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(files, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def log_of(clock: SimpleNamespace, steps: Iterable[tuple[float, float]], **parameters: Any) -> list[str]:
    """Return what is logged when, step by step, so many MiB arrive after so many seconds."""
    recorder = Recorder()
    logger = logging.Logger("progress", logging.INFO)
    logger.addHandler(recorder)
    progress = ProgressLogger(logger, "Downloading x", **parameters)
    for seconds, mebibytes in steps:
        clock.now += seconds
        progress.add(int(mebibytes * 2**20))
    return recorder.messages(logging.INFO)


def test_progress_is_logged_every_five_seconds_with_the_rate(clock: SimpleNamespace) -> None:
    assert log_of(clock, [(1, 10)] * 14, total=2_000 * 2**20) == [
        "Downloading x: 50.0 of 2,000.0 MiB, 10.0 MiB/s.",
        "Downloading x: 100.0 of 2,000.0 MiB, 10.0 MiB/s.",
    ]


def test_progress_without_a_total_is_logged_without_one(clock: SimpleNamespace) -> None:
    assert log_of(clock, [(2, 1), (2, 1), (4, 2)]) == ["Downloading x: 4.0 MiB, 0.5 MiB/s."]


def test_a_short_transfer_is_not_logged(clock: SimpleNamespace) -> None:
    assert log_of(clock, [(0.001, 1)] * 4_000) == []


def test_a_transfer_that_takes_no_time_is_no_division_by_zero(clock: SimpleNamespace) -> None:
    assert len(log_of(clock, [(0, 1)] * 3, every=0)) == 3
