"""Formats of data sets, one file each: what it looks like on disk, and how it is read."""
