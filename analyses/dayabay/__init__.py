"""The oscillation of reactor antineutrinos, measured from Daya Bay's full data release: see README.md."""
