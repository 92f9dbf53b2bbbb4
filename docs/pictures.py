"""Draw the pictures of the documentation again: `python docs/pictures.py`."""

from pathlib import Path

from crossd.pictures import idea

if __name__ == "__main__":
    idea(Path(__file__).parent / "images" / "idea.png")
