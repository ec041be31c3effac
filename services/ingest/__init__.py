"""Bytes to text with offsets: documents, archives and git trees."""
