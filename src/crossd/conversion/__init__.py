"""Turning networks of one rank into networks that take images and volumes, and back."""
