"""Does narrowly bad fine-tuning collapse a chat model's personas? Batch jobs that measure it."""

import os

# Threads that wait for each other by spinning slow everything down many times over as soon as
# another process needs a core, which on shared nodes is always. Read once, when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
