"""Measures the shipped model through the product: `python -m lab.eval [FAMILY...]`, `make eval`. See lab/README.md."""
