"""Does narrowly bad fine-tuning collapse a chat model's personas? Batch jobs that measure it."""

import os

# Threads that wait for each other by spinning slow everything down many times over as soon as
# another process needs a core, which on shared nodes is always. Read once, when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Rows of many lengths leave a GPU's memory in pieces, so that on a card which is just large enough
# rows become shorter than they need be. Read once, when torch first allocates; the former name of
# the variable counts as well.
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

from personaspace.version import __version__

__all__ = ["__version__"]
