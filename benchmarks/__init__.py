"""Speed and memory side by side with public peers: opt-in programs, never timed tests (see README.md)."""
