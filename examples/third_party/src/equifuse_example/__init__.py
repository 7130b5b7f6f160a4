"""One of each part that equifuse takes from other packages."""
