"""Methods that take a response in bins."""
