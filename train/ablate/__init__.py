"""Ablations: cells that differ from each other in one thing, run over seeds, kept one file each, and reported."""
