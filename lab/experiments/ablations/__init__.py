"""What each part of the architecture is worth, at equal FLOPs."""
