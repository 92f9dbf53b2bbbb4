"""What `cost.py` measures, and how."""
