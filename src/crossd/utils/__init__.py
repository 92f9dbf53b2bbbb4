"""What every room needs: files written whole, folders of results, memory, progress."""
