"""Flux-averaged muon-neutrino cross-section on argon, from a toy generator and a toy LArTPC: see README.md."""
