"""Reinforcement learning on sums: hybrid against all-MLA from equal starting points."""
