"""Pages and drawings of runs and of the demo; nothing is measured here."""
