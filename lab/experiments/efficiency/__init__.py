"""Time and memory by length in the engine."""
