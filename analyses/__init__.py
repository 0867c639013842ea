"""Whole physics analyses, each a folder with a README, run by ``python -m analyses.NAME``."""
