"""Draws of the truth for each measured event, from densities learned on the simulation."""
