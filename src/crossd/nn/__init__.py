"""Layers for images and volumes, and the mathematics of their kernels."""
