"""Measurements, side by side where there is a rival; results as JSON with machine and commit."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the engine's process has it, before torch is imported
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
