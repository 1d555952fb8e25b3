"""The demo: the story of a small shop, told on real Envoys."""
