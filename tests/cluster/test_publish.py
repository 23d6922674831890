"""A study that publishes itself from its pod: refused first, then taken; the results stay."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helm_charts import CHART, PROGRAMS
from hub_server import READ, WRITE, Hub, serving

from cluster.conftest import Place
from cluster.release import Release
from personaspace.pipeline import termination
from personaspace.pipeline.termination import Code

pytestmark = pytest.mark.timeout(1500)

SECRET = "may-write"
DATA = "datasets/lab/tiny"


@pytest.fixture(scope="module")
def far_hub() -> Iterator[Hub]:
    """A Hub on this host that pods reach."""
    with serving(os.environ["PERSONASPACE_TEST_HOST"]) as hub:
        yield hub


def _publishing(place: Place, name: str, hub_url: str, repo: str, **values: Any) -> Release:
    """A release of base and one trained condition that is to be published as `lab/{repo}`."""
    study = place.study()
    study["conditions"] = study["conditions"][:2]
    study["publish"] = {"repo": f"lab/{repo}", "include": ["adapters", "results"]}
    release = place.release(
        name, study, publishToken={"existingSecret": SECRET, "key": "token"}, **values
    )
    release.values["stages"]["publish"] = {
        **release.values["stages"]["aggregate"],
        # What the stand-in does not speak is left out (tests/hub_server.py).
        "extraEnv": [
            {"name": "HF_ENDPOINT", "value": hub_url},
            {"name": "HF_HUB_DISABLE_XET", "value": "1"},
        ],
    }
    return release


def _token(place: Place, token: str) -> None:
    """Puts the token into its secret, which may be there."""
    body = {"metadata": {"name": SECRET}, "stringData": {"token": token}}
    core, space = place.cluster.core, place.cluster.namespace
    if any(s.metadata.name == SECRET for s in core.list_namespaced_secret(space).items):
        core.patch_namespaced_secret(SECRET, space, body)
    else:
        core.create_namespaced_secret(space, body)


def _ended(release: Release) -> tuple[str, termination.Ending, int]:
    """What the first publishing container that has ended left: for people, for programs, code."""

    def look() -> dict[str, Any] | None:
        for pod in release.pods(stage="publish"):
            for container in pod["status"].get("containerStatuses") or ():
                for state in (container["state"], container.get("lastState", {})):
                    if "terminated" in state:
                        return dict(state["terminated"])
        return None

    found = release.wait(look, 600, "a publishing pod's end")
    people, ending = termination.read(found["message"])
    assert ending
    return people, ending, found["exitCode"]


def test_refused_then_published_with_nothing_computed_again(
    place: Place,
    far_hub: Hub,
    installed: Callable[[Release], Release],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "helm").symlink_to(Path(PROGRAMS[max(PROGRAMS)]).resolve())
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    _token(place, READ)
    release = installed(_publishing(place, "sent", far_hub.url, "tiny"))
    assert release.install().returncode == 0
    states = release.wait_ended()
    assert release.conductor() == "Failed"
    assert {node for node, state in states.items() if state != "Complete"} == {"publish"}
    people, ending, code = _ended(release)
    assert code == 2 and ending.code is Code.USER_ERROR
    assert len(people.splitlines()) == 1 and "the right to write" in people, people
    shown = release.cli("status", release.name)
    assert "the right to write" in shown.stdout, shown.stdout
    assert not any(far_hub.files(repo) for repo in far_hub.repos)
    before = place.results(release)  # they are there all the same

    _token(place, WRITE)
    started = {pod["metadata"]["uid"] for pod in release.pods()}
    again = release.cli("rerun", release.name, "--failed", "--chart", str(CHART))
    assert again.returncode == 0, again.stderr
    assert set(release.wait_ended().values()) == {"Complete"}
    assert release.conductor() == "Complete"
    new = [pod for pod in release.pods() if pod["metadata"]["uid"] not in started]
    stages = {pod["metadata"]["labels"]["personaspace.dev/stage"] for pod in new}
    assert stages == {"publish", "conductor"}
    assert json.loads(far_hub.files(DATA)["results/results.json"]) == json.loads(before)
    assert place.results(release) == before
    for pod in release.pods():
        log = release.log(pod["metadata"]["name"])
        assert WRITE not in log and READ not in log and "canary" not in log
        own = pod["metadata"]["labels"]["personaspace.dev/stage"] == "publish"
        names = {entry["name"] for entry in pod["spec"]["containers"][0]["env"]}
        assert ("HF_TOKEN" in names) is own  # no other pod has the token
    for files in (far_hub.files(repo) for repo in far_hub.repos):
        assert not any(b"canary" in content for content in files.values())


def test_a_hub_that_is_away_is_tried_again(
    place: Place, installed: Callable[[Release], Release]
) -> None:
    _token(place, WRITE)
    nobody = f"http://{os.environ['PERSONASPACE_TEST_HOST']}:9"
    # Another repository than before, which is in the store as published.
    release = installed(
        _publishing(place, "away", nobody, "away", store={"url": place.url("sent")})
    )
    assert release.install().returncode == 0
    people, ending, code = _ended(release)
    assert code == 69 and ending.code is Code.UNAVAILABLE
    assert len(people.splitlines()) == 1 and "the Hub does not answer" in people, people
    states = release.states()
    assert states.pop("publish") == "active"  # it comes again, and nothing has failed
    assert set(states.values()) == {"Complete"}
