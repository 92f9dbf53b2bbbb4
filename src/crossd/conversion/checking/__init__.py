"""Holding a converted network against the consistency law, with every weight moved."""
