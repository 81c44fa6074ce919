"""Answers as tables: the same rows for the terminal, Markdown and CSV."""
