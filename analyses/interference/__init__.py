"""Signal, background and their interference: a signal strength from neural likelihood ratios."""
