"""A clock that is off: told as that, and never taken for wrong credentials."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import botocore.auth
import pytest

from personaspace.errors import StoreUnavailable, UserError
from personaspace.s3 import errors
from personaspace.store import Store, open_store

if TYPE_CHECKING:
    from seaweed import SeaweedS3

pytestmark = pytest.mark.s3
KEY = "benign/seed-42/train/0123456789abcdef"


def _write(store: Store) -> None:
    with store.writer(KEY) as writer:
        (writer.folder / "file").write_bytes(b"content")
        writer.commit({})


#: One of each way in which S3 is asked.
ACTS: dict[str, Callable[[Store], Any]] = {
    "check": lambda store: store.check(),
    "find": lambda store: store.find(KEY),
    "list": lambda store: store.list(),
    "write": _write,
}


@pytest.fixture
def server(s3_server: SeaweedS3, monkeypatch: pytest.MonkeyPatch) -> SeaweedS3:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


def set_clock(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """What signs requests, and what looks at the clock when they are refused."""
    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *a, **k: now(*a, **k) + by)
    true = time.time

    class Clock:
        @staticmethod
        def time() -> float:
            return true() + by.total_seconds()

    monkeypatch.setattr(errors, "time", Clock)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    ("by", "told"),
    [
        (timedelta(days=400), "400 days, 0:00:0. ahead of"),
        (timedelta(days=-400), "(400|399) days, .* behind"),
        (timedelta(minutes=20), "0:2.:.. ahead of"),
    ],
    ids=["400 days ahead", "400 days behind", "20 minutes ahead"],
)
def test_a_clock_that_is_off_is_told(
    server: SeaweedS3, monkeypatch: pytest.MonkeyPatch, by: timedelta, told: str, act: str
) -> None:
    set_clock(monkeypatch, by)
    with (
        open_store(server.url("clock") + "&patience=0") as store,
        pytest.raises(UserError, match=f"this machine's clock is {told} that of http") as raised,
    ):
        ACTS[act](store)
    assert not isinstance(raised.value, StoreUnavailable)
    assert "credentials" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_few_minutes_are_nothing(server: SeaweedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, timedelta(minutes=10))
    with open_store(server.url("clock/near")) as store:
        _write(store)
        assert store.list() == [KEY]
