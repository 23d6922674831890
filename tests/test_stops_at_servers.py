"""Asked to stop while a server keeps us waiting: who is given up, when, and what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from relay import Relay, Request, Stall, faulty
from store_places import FILES, KEY, contents, objects, put

from personaspace import interrupt
from personaspace.errors import CutOff, Interrupted, StoreUnavailable
from personaspace.store import Store, open_store

if TYPE_CHECKING:
    from seaweed import SeaweedS3

pytest_plugins = ["seaweed", "store_fixtures"]

MIB = 1024 * 1024
#: Of the processes here, in seconds: a third of it is not for servers.
GRACE = 3.0
BOUND = GRACE * 2 / 3
#: A busy machine may take so many more.
SLACK = 6.0


@pytest.fixture
def stopping() -> Iterator[Callable[[], None]]:
    """Asks this process to stop, which takes it by its flag."""
    interrupt.install(GRACE)
    yield interrupt.ask


@pytest.fixture
def silent() -> Iterator[threading.Event]:
    """Set at the end, so that requests that were kept waiting end."""
    event = threading.Event()
    yield event
    event.set()


def cut_off(act: Callable[[], object], ask: Callable[[], None], reached: threading.Event) -> CutOff:
    """What `act` raises when it is asked to stop while it waits; within the time that it has."""

    def soon() -> None:
        reached.wait(30)
        ask()

    thread = threading.Thread(target=soon)
    thread.start()
    with pytest.raises(CutOff) as caught:
        act()
    thread.join()
    late = time.monotonic() - interrupt.until()
    assert -BOUND <= late < SLACK, late
    return caught.value


# --- waiting for anybody ---------------------------------------------------------------------


def test_what_comes_in_time_is_kept(stopping: Callable[[], None]) -> None:
    def slow() -> str:
        stopping()
        time.sleep(0.3)
        return "kept"

    assert interrupt.answered(slow, "it") == "kept"
    with pytest.raises(Interrupted) as caught:
        interrupt.answered(list, "it", keeps=False)
    assert not isinstance(caught.value, CutOff)


def test_errors_come_through(stopping: Callable[[], None]) -> None:
    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        interrupt.answered(fails, "it")


def test_who_says_nothing_is_given_up_in_time(
    stopping: Callable[[], None], silent: threading.Event
) -> None:
    stopping()
    since = time.monotonic()
    with pytest.raises(CutOff, match="asked to stop, but the hub does not answer"):
        interrupt.answered(lambda: silent.wait(60), "the hub")
    assert BOUND - 0.1 < time.monotonic() - since < BOUND + SLACK
    asked: list[int] = []
    with pytest.raises(CutOff):
        interrupt.answered(lambda: asked.append(1), "the hub")
    assert not asked, "after that nobody is asked any more"


def test_what_nothing_is_lost_without_is_given_up_at_once(
    stopping: Callable[[], None], silent: threading.Event
) -> None:
    threading.Timer(0.3, stopping).start()
    since = time.monotonic()
    with pytest.raises(Interrupted, match=r"^asked to stop$"):
        interrupt.answered(lambda: silent.wait(60), "the hub", keeps=False)
    assert time.monotonic() - since < BOUND


def test_without_the_flag_nothing_changes() -> None:
    thread = interrupt.answered(threading.current_thread, "it")
    assert thread is threading.current_thread()


@pytest.mark.parametrize(("grace", "seconds"), [(30, 20), (120, 110), (10, 10 * 2 / 3), (0, 0)])
def test_how_long_servers_are_waited_for(grace: float, seconds: float) -> None:
    interrupt.install(grace)
    assert interrupt.until() == float("inf")
    before = time.monotonic()
    interrupt.ask()
    assert before + seconds <= interrupt.until() <= time.monotonic() + seconds


# --- buckets -----------------------------------------------------------------------------------


@pytest.fixture
def place(server: SeaweedS3, prefix: str) -> Callable[[str], Store]:
    return lambda endpoint: open_store(server.url(prefix, endpoint=endpoint))


def test_a_file_that_does_not_arrive_is_no_artifact(
    server: SeaweedS3,
    prefix: str,
    place: Callable[[str], Store],
    stopping: Callable[[], None],
    silent: threading.Event,
) -> None:
    stall = Stall(lambda it: it.method == "PUT" and "steps.csv" in it.path, silent)
    with faulty(server, stall) as endpoint, place(endpoint) as store:
        error = cut_off(lambda: put(store), stopping, stall.reached)
        assert f"bucket {server.bucket} at {endpoint} does not answer" in str(error)
        silent.set()
    interrupt.reset()
    with place(server.endpoint) as store:
        assert store.find(KEY) is None and not store.list()
        store.sweep(minutes=0)
        assert objects(server, prefix) == []
        assert contents(store.fetch(put(store))) == FILES


def test_a_manifest_that_arrives_all_the_same_has_its_files(
    server: SeaweedS3,
    place: Callable[[str], Store],
    stopping: Callable[[], None],
    silent: threading.Event,
) -> None:
    reached = threading.Event()

    def fault(relay: Relay, request: Request) -> bool:
        if not request.is_manifest_put():
            return False
        reached.set()
        relay.forward(request)
        silent.wait(60)
        relay.close_connection = True
        return True

    with faulty(server, fault) as endpoint, place(endpoint) as store:
        cut_off(lambda: put(store), stopping, reached)
        silent.set()
    interrupt.reset()
    with place(server.endpoint) as store:
        assert contents(store.fetch(KEY)) == FILES


def test_parts_that_do_not_arrive_are_swept(
    server: SeaweedS3,
    prefix: str,
    place: Callable[[str], Store],
    stopping: Callable[[], None],
    silent: threading.Event,
) -> None:
    stall = Stall(lambda it: "partNumber=2" in it.path, silent)
    with faulty(server, stall) as endpoint, place(endpoint) as store:
        cut_off(lambda: put(store, files={"big": os.urandom(20 * MIB)}), stopping, stall.reached)
        # The transfer's own threads still wait: as if killed now, its upload stays open.
        where = {"Bucket": server.bucket, "Prefix": f"{prefix}/"}
        assert len(server.client.list_multipart_uploads(**where).get("Uploads", [])) == 1
        interrupt.reset()
        with place(server.endpoint) as other:
            assert other.find(KEY) is None
            assert other.sweep(minutes=0).orphans == 1
        assert not server.client.list_multipart_uploads(**where).get("Uploads")
        silent.set()


def test_a_download_is_given_up_at_once(
    server: SeaweedS3,
    place: Callable[[str], Store],
    stopping: Callable[[], None],
    silent: threading.Event,
) -> None:
    stall = Stall(lambda it: it.method == "HEAD" and "/data-" in it.path, silent)
    with place(server.endpoint) as store:
        put(store)
    with faulty(server, stall) as endpoint, place(endpoint) as store:

        def soon() -> None:
            stall.reached.wait(30)
            stopping()

        threading.Thread(target=soon).start()
        with pytest.raises(Interrupted, match=r"^asked to stop$"):
            store.fetch(KEY)
        assert time.monotonic() < interrupt.until()
        silent.set()


def test_a_server_that_is_away_is_given_up_in_time(
    place: Callable[[str], Store], stopping: Callable[[], None]
) -> None:
    with place("http://127.0.0.1:9") as store:
        with pytest.raises(StoreUnavailable):
            store.check()  # patience alone
        reached = threading.Event()
        reached.set()
        error = cut_off(lambda: store.find(KEY), stopping, reached)
    assert "bucket study at http://127.0.0.1:9 does not answer" in str(error)


# --- the process's end -------------------------------------------------------------------------

LIBRARY = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from personaspace import interrupt
interrupt.begin()
from personaspace.cli.guard import guarded

def command():
    interrupt.install(float(sys.argv[2]))
    def wait():
        print("waiting", flush=True)
        time.sleep(60)
    if sys.argv[1] == "breakable":
        with interrupt.breakable(), ThreadPoolExecutor(1) as pool:
            pool.submit(wait)
    interrupt.answered(ThreadPoolExecutor(1).submit(wait).result, "the library")

guarded(command, takes_signals=True)()
"""


def ended(how: str, grace: float, again: float | None = None) -> tuple[int, str, float]:
    """Exit code, what was said, and seconds from the request to stop, or the second one."""
    command = [sys.executable, "-c", LIBRARY, how, str(grace)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"waiting\n"
        since = time.monotonic()
        child.send_signal(signal.SIGTERM)
        if again is not None:
            time.sleep(again)
            since = time.monotonic()
            child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=60)
    return child.returncode, said.decode(), time.monotonic() - since


@pytest.mark.slow
def test_threads_of_libraries_do_not_hold_the_process() -> None:
    code, said, took = ended("answered", GRACE)
    words = "asked to stop, but the library does not answer, so nothing more was saved"
    assert (code, said) == (75, f"{words}; run again to continue from here\n")
    assert BOUND < took < BOUND + interrupt.TIDY_SECONDS + SLACK
    code, said, took = ended("breakable", 30)
    assert (code, said) == (75, "asked to stop; run again to continue from here\n")
    assert took < interrupt.TIDY_SECONDS + SLACK


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once() -> None:
    code, said, took = ended("answered", 90, again=interrupt.SAME_REQUEST_SECONDS + 0.3)
    assert (code, said) == (-signal.SIGTERM, "")
    assert took < SLACK
