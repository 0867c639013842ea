"""Unfold muon momentum, angle and visible energy of GiBUU's neutrino events on oxygen: see README.md."""
