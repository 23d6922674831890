"""Where a Job of a release is, and why: the codes that conductor, `status` and `wait` share.

Sentences stand beside them for people; no program reads those.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class JobPhase(StrEnum):
    """What Kubernetes says of a Job."""

    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class JobState(StrEnum):
    """Where a Job is, for people."""

    DONE = "done"
    FAILED = "failed"
    #: Ended by the conductor, as it can never run.
    NOT_RUN = "not run"
    RUNNING = "running"
    #: It has a node, and its container does not run yet.
    STARTING = "starting"
    #: For its inputs.
    WAITING = "waiting"
    #: For a node, a quota, an image …
    QUEUED = "queued"
    #: It was deleted: cancelled, or removed some time after its end.
    GONE = "gone"

    @property
    def ended(self) -> bool:
        """Whether it stays so."""
        return self in (JobState.DONE, JobState.FAILED, JobState.NOT_RUN, JobState.GONE)


class Reason(StrEnum):
    """Why a Job is where it is; written as Kubernetes writes its reasons."""

    # Waiting.
    INPUTS = "WaitingForInputs"
    INPUTS_CHECK = "CheckingInputs"
    STUDY_READ = "ReadingStudy"
    CONDUCTOR = "ConductorNotRunning"
    NO_CONDUCTOR = "NoConductor"
    # Queued, starting.
    IMAGE = "ImageNotAvailable"
    CONTAINER = "ContainerNotCreated"
    VOLUME = "VolumeNotMounted"
    NO_ROOM = "NoNodeFits"
    NOT_SCHEDULED = "NotScheduled"
    QUOTA = "QuotaExceeded"
    POD_REFUSED = "PodRefused"
    NO_POD = "NoPodYet"
    RETRY = "WaitingForRetry"
    NOT_ADMITTED = "NotAdmitted"
    ON_NODE = "OnNode"
    # Failed: what the container left (pipeline.termination.Code) …
    USER_ERROR = "UserError"
    UNAVAILABLE = "Unavailable"
    INTERRUPTED = "Interrupted"
    ERROR = "Error"
    JOBS_FAILED = "JobsFailed"
    # … what Kubernetes did to it …
    OUT_OF_MEMORY = "OOMKilled"
    DEADLINE = "DeadlineExceeded"
    EVICTED = "Evicted"
    # … and what the conductor found.
    ARTIFACT_MISSING = "ArtifactMissing"
    OTHER_FINGERPRINT = "OtherFingerprint"
    STORE = "StoreUnreadable"
    JOB_GONE = "JobGone"
    # Not run; also reasons in the Job's conditions.
    INPUTS_FAILED = "InputsFailed"
    STUDY_INVALID = "StudyInvalid"


#: Reasons for which a conductor ends a Job.
NOT_RUN = frozenset({Reason.INPUTS_FAILED, Reason.STUDY_INVALID})


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something is as it is.

    Attributes:
        reason: The code.
        text: For people.
        node: What it began with; empty: with itself.
    """

    reason: Reason
    text: str = ""
    node: str = ""


def count_of_jobs(count: int) -> str:
    """A number of Jobs, for people."""
    return f"{count} Job" if count == 1 else f"{count} Jobs"


def told(state: JobState, text: str) -> str:
    """A state and why, as the conductor's table has it."""
    word = state.upper() if state is JobState.FAILED else str(state)
    return f"{word}: {text}" if text else word
