"""A hunt for a new particle in two jets: LHC-Olympics-like events, four background templates, limits."""
