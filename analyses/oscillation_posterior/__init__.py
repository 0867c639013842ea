"""Posterior of oscillation parameters from simulations: see README.md."""
