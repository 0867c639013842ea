"""Weights of the simulation's events, learned by classifiers: OmniFold and its relatives."""
