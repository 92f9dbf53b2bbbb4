"""Data: what a source of labelled images or volumes is, and opening one."""
