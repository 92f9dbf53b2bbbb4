"""How volumes are prepared: planned from a look at all of them, and done."""
