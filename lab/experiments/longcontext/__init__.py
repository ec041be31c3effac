"""Long context at equal size and tokens, within the trained length and beyond."""
