"""Training with recipes. Only this package and `zoo.export` import torch; nothing is imported until it is used."""

import os

# Threads that spin at OpenMP barriers starve each other, and everyone else, on shared cores; torch reads this once,
# when it is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
