"""Alignment of the student to the teacher: by its answers (sft) and by reinforcement (rba)."""
