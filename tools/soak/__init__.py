"""Training and generation for hours: does memory grow, do steps become slower? See `__main__`."""
