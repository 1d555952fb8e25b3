"""The local mesh: apps, Envoys and sidecars of every Service on this machine."""
