"""Reports for people: Markdown, HTML, plots and pictures."""
