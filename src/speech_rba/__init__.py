"""Reinforced Behavior Alignment of speech language models, run every night (arXiv 2509.03526)."""
