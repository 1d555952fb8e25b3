"""`authz windows watch`: announces ends of windows, and the first attempt after each, to a webhook."""
