"""The conductor's patches: what goes first, and that nothing goes twice."""

from __future__ import annotations

import queue
import threading
import time

import pytest

from personaspace.cluster.conductor import patches
from personaspace.cluster.conductor.news import Changed, Deleted, Inbox, Listed, Patched
from personaspace.cluster.conductor.patches import Patches, Urgency
from personaspace.cluster.conductor.plan import JobPlan
from personaspace.cluster.conductor.world import World
from personaspace.cluster.states import Cause, Reason
from personaspace.cluster.views import PodView


def test_the_urgent_goes_first_and_the_deepest_of_it() -> None:
    inbox: Inbox = queue.Queue()
    line, gate = Patches(inbox, connections=1, to_begin=0), threading.Event()
    order: list[str] = []
    line.send("held", Urgency.FOLLOWS, 0, gate.wait)  # so that the others stand in line
    for depth in (1, 3, 2):
        line.send(f"depth-{depth}", Urgency.FOLLOWS, depth, order.append, f"depth-{depth}")
    line.send("end", Urgency.ENDS, 0, order.append, "end")
    gate.set()
    for _ in range(5):
        inbox.get(timeout=5)
    assert order == ["end", "depth-3", "depth-2", "depth-1"]
    assert line.count == 5
    line.close()


def test_what_needs_nothing_leaves_connections_to_what_follows() -> None:
    inbox: Inbox = queue.Queue()
    line, gate = Patches(inbox, connections=3, to_begin=2), threading.Event()
    for number in range(10):  # as when a study begins and the API server is slow
        line.send(f"begins-{number}", Urgency.BEGINS, 0, gate.wait)
    line.send("follows", Urgency.FOLLOWS, 1, lambda: None)
    assert inbox.get(timeout=5) == Patched("follows", "")
    gate.set()
    answered = [inbox.get(timeout=5) for _ in range(10)]
    assert {news.name for news in answered if isinstance(news, Patched)} == {
        f"begins-{number}" for number in range(10)
    }
    line.close()
    assert inbox.empty()


def test_nothing_is_sent_twice_while_its_effect_is_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(patches, "RETRY_SECONDS", 0.1)
    inbox: Inbox = queue.Queue()
    line = Patches(inbox, connections=2, to_begin=1)
    sent: list[bool] = []

    def send(fails: bool = False) -> int:
        def action() -> None:
            sent.append(fails)
            if fails:
                raise RuntimeError("away")

        line.send("pod", Urgency.FOLLOWS, 0, action)
        return len(sent)

    send()
    assert inbox.get(timeout=5) == Patched("pod", "")
    line.answered("pod", failed=False)
    line.seen("pod")  # a change of before
    time.sleep(0.2)
    # However long the watch lags: not before it has told of the pod again.
    assert send() == 1
    line.seen("pod")
    send(fails=True)
    assert inbox.get(timeout=5) == Patched("pod", "away")
    line.answered("pod", failed=True)
    assert send() == 2, "not at once"
    time.sleep(0.2)
    send()
    assert inbox.get(timeout=5) == Patched("pod", "") and sent == [False, True, False]
    line.close()


def test_the_world_knows_who_waits_at_the_gate_and_who_is_past_it() -> None:
    def pod(name: str, gated: bool, live: bool = True, cause: Cause | None = None) -> PodView:
        return PodView(name, f"uid-{name}", "job", gated, live, cause)

    world, failed = World(), Cause(Reason.ERROR, "exit code 1")

    def found() -> tuple[list[str], set[str]]:
        return [each.name for each in world.gated("job")], world.started()

    world.apply(Listed("pods", {"a": pod("a", True)}))
    assert found() == (["a"], set())
    world.apply(Changed("pods", pod("a", False)))
    assert found() == ([], {"job"})
    world.apply(Changed("pods", pod("a", False, live=False, cause=failed)))
    world.apply(Changed("pods", pod("b", True)))
    assert found() == (["b"], set()) and world.last_failure == {"job": failed}
    world.apply(Deleted("pods", "b"))
    world.apply(Deleted("pods", "never"))
    assert found() == ([], set()) and set(world.pods) == {"a"}
    world.apply(Listed("pods", {"c": pod("c", False)}))
    assert found() == ([], {"job"}) and set(world.pods) == {"c"}


def test_depth_is_the_longest_way() -> None:
    jobs = {name: [name] for name in ("train", "couple", "evaluate", "aggregate")}
    needs: dict[str, list[str]] = {
        "train": [],
        "couple": ["train"],
        "evaluate": ["train", "couple"],
    }
    plan = JobPlan(jobs, {**needs, "aggregate": ["train", "evaluate"]}, {}, False)
    assert plan.depths() == {"train": 0, "couple": 1, "evaluate": 2, "aggregate": 3}
