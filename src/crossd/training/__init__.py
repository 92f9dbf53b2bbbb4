"""One training: its configuration, batches, loop, checkpoints and logs."""
