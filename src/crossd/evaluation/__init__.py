"""Arms of a comparison against each other: protocols, runs and statistics."""
