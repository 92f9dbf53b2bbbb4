"""The kinds of sources of data, a file for each."""
