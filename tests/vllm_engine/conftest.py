"""These tests have an environment of their own (`make test-vllm`), elsewhere they are ignored."""

from __future__ import annotations

import importlib.util
import os

# Set before torch is imported. Tiny matrices gain nothing from threads, and on a busy machine
# threads that wait for each other made these tests four times as slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Folders alone are loaded; a missing one must not turn into a download.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

_spec = importlib.util.find_spec("vllm")
# This folder's own name can be found as a namespace package: that has no origin.
if _spec is None or _spec.origin is None:
    collect_ignore_glob = ["*"]
