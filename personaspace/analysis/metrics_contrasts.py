"""Measures of contrasts between conditions, with training runs as units."""

from __future__ import annotations

from dataclasses import replace

from personaspace.analysis.measure import Measure
from personaspace.analysis.metrics_shape import UNTESTED

#: What is contrasted: metric, name of the measure, prefix of its contrasts, and words for it.
_WHAT = (
    ("M1", "raw_cosine", "", "mean pair cosine"),
    ("M1", "spread", "spread_", "variance between personas"),
    ("M2", "split_half", "split_half_", "cosine with the EM axis"),
    ("M2", "displacement", "displacement_", "cosine of the shift with the EM axis"),
    ("M3", "nearest_centroid", "nearest_centroid_", "nearest-centroid accuracy"),
    ("M3", "lda", "lda_", "LDA accuracy"),
    ("shape", "participation_ratio", "participation_ratio_", "participation ratio of personas"),
    ("shape", "cka", "cka_", "kernel alignment with base"),
    ("shape", "rsa", "rsa_", "correlation of distances with base's"),
    ("shape", "procrustes", "procrustes_", "Procrustes distance from base"),
    ("shape", "subspace_overlap", "subspace_overlap_", "overlap of subspaces with base"),
    ("shape", "probe_transfer", "probe_transfer_", "accuracy of base's classifier"),
    ("bystander_contrast", "bystander", "", "bystander leakage"),
    ("divergence", "common_answers", "common_answers_", "divergence of personas' answers"),
)
#: Contrasts that M1's single seeds have as well, and that are described there.
_KNOWN = {"em_minus_benign", "spread_em_minus_benign", "em_mean_minus_benign"}

_CAUSE = "separate EM from any other difference between its data and the benign data"


def _of(metric: str, name: str, prefix: str, what: str) -> list[Measure]:
    made = [
        Measure(
            metric, "recommended", f"{prefix}em_minus_benign", f"EM increment in {what}",
            f"what one EM condition adds to harmless fine-tuning in {what}", _CAUSE,
            f"EM's {what} equals benign's",
        ),
        Measure(
            metric, "recommended", f"{prefix}em_mean_minus_benign",
            f"EM increment in {what}, mean of the EM conditions",
            f"what EM adds to harmless fine-tuning in {what}, on average over conditions", _CAUSE,
            f"the EM conditions' average {what} equals benign's",
        ),
        Measure(
            metric, "recommended", f"{prefix}placebo_minus_benign",
            f"{what}, a second benign condition less benign",
            "how often these tests find a difference where the data differ in nothing that matters",
            "say more than that with one such condition: all its tests share its training runs",
            f"two benign conditions have the same {what}",
        ),
        Measure(
            metric, "recommended", f"{name}_pair", f"{what}, one EM condition less another",
            f"whether {what} depends on the persona trained under, in two conditions",
            "say which property of the two personas makes the difference",
            f"both conditions have the same {what}",
        ),
    ]  # fmt: skip
    if metric == "bystander_contrast":
        made.append(
            Measure(
                metric, "recommended", "minus_base", "bystander leakage, change from base",
                "whether bystanders write the marker more often than the base model's do",
                "tell EM from any other fine-tuning: compare with benign",
                "the mean bystander leakage equals base's",
            )
        )  # fmt: skip
    if metric == "shape":  # pairs of EM conditions are not compared there
        made = [m for m in made if m.name != f"{name}_pair"]
    if name in UNTESTED:
        made = [replace(m, null=None) for m in made]
    return [m for m in made if metric != "M1" or m.name not in _KNOWN]


CONTRASTS = tuple(measure for entry in _WHAT for measure in _of(*entry))
