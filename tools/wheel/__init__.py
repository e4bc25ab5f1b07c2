"""A wheel for Linux machines at large: built, checked and tried by `python -m tools.wheel`."""
