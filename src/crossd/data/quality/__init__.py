"""Looking at every sample of a source, and saying what is wrong with it."""
