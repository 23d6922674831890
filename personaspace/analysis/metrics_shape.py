"""Measures of the shape of persona space, which neither a translation nor a scale changes."""

from __future__ import annotations

from personaspace.analysis.measure import Measure
from personaspace.analysis.measures_beside import ACCURACY

#: Measures without any p: the overlap's test rejected in up to 7 % of studies in which nothing
#: differed, and that of base's classifier over several runs has not been calibrated.
UNTESTED = frozenset({"subspace_overlap", "probe_transfer"})
_BOUND = "be tested against base: no change is the end of its range; compare with benign"

SHAPE = (
    Measure(
        "shape", "recommended", "participation_ratio", "participation ratio of personas",
        "in how many directions persona vectors differ: the participation ratio of the covariance "
        "between personas",
        "say which directions these are, or whether they are base's",
        "the participation ratio equals base's", "relative change",
    ),
    Measure(
        "shape", "recommended", "cka", "kernel alignment with base",
        "how alike the arrangement of personas is to base's, whatever its place, size and "
        "orientation (1: the same); large differences between personas count most",
        _BOUND,
    ),
    Measure(
        "shape", "recommended", "rsa", "correlation of distances with base's",
        "whether the pairs of personas that are far apart are those that were so in base",
        f"see a change that all distances share, or {_BOUND}",
    ),
    Measure(
        "shape", "recommended", "procrustes", "Procrustes distance from base",
        "what no translation, scale and rotation can undo of the change of personas (0: nothing, "
        "1: all)",
        _BOUND,
    ),
    Measure(
        "shape", "recommended", "subspace_overlap", "overlap of subspaces with base",
        "whether personas differ along base's directions still: mean squared cosine of the "
        "principal angles (1: the same subspace), which sees a rotation",
        "say how much personas differ along each of them, or be tested: no change is the end of "
        "its range, and against benign its test rejects too often beside heavy tails",
        None, "angle whose squared cosine it is, in degrees",
    ),
    Measure(
        "shape", "recommended", "probe_transfer", "accuracy of base's classifier",
        "whether a classifier of base's activations tells the condition's personas apart, which "
        "sees that personas moved to other places (M3 is trained anew and does not)",
        "be tested: all questions share one classifier, no variance here covers its chance error, "
        "and no test over runs has been calibrated",
        None, ACCURACY,
    ),
)  # fmt: skip
