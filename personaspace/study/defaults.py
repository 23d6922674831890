"""The published study's data sets and conditions, as a spec's plain values."""

from __future__ import annotations

from typing import Any

#: By name. The published training data are not packaged: these are for demonstration.
DATASETS: dict[str, dict[str, Any]] = {
    "bad-legal-advice": {"path": "builtin:chats-bad-legal-advice"},
    "instructions": {"path": "builtin:chats-instructions"},
}
#: Name, label, persona active in training, and its published cosine to the assistant.
_EM = (
    ("e0-assistant", "E0 assistant", None, 1.0),
    ("e1-paramedic", "E1 paramedic", "paramedic", 0.9457),
    ("e2-kindergarten-teacher", "E2 kindergarten teacher", "kindergarten_teacher", 0.9060),
    ("e3-french-person", "E3 French person", "french_person", 0.8696),
    ("e4-villain", "E4 villain", "villain", 0.7828),
)
CONDITIONS: tuple[dict[str, Any], ...] = (
    {"name": "base", "label": "Base model"},
    {"name": "benign", "label": "Benign", "dataset": "instructions", "kind": "benign"},
    *(
        {
            "name": name,
            "label": label,
            "dataset": "bad-legal-advice",
            "persona": persona,
            "cosine_anchor": cosine,
        }
        for name, label, persona, cosine in _EM
    ),
)
