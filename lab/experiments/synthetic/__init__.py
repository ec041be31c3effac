"""Palindrome, MQAR and Stack: what a fixed state can recall, KDA against Gated DeltaNet and Mamba2."""
