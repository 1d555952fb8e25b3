"""What records and policies together tell: values in, values out; where they are kept is not known here. Pure."""
