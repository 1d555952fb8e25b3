"""What was decided, as the values that are written and shipped. Pure."""
