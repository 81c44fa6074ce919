"""Readers of outside formats, one file each."""
