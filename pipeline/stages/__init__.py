"""The stages of a run, wired: each reads what the one before it recorded, so any can be run again alone."""
