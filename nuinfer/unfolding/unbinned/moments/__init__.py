"""A cross-check of OmniFold by moments of the reco, without classifiers and iterations."""
