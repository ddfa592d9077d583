"""Reinforced Behavior Alignment of speech language models, run every night (arXiv 2509.03526)."""

import os

# Threads of OpenMP that wait spin for 200 ms, and take the core from whoever else is at work: beside one busy process a
# command took 8 times as long. libgomp reads this when torch loads it, so it is set before anything else is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
