"""Alignment of the student to the teacher: methods, rewards and their trainers."""
