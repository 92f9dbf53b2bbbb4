"""Weights: crossd's files, the checkpoints of others, sharing, and export."""
