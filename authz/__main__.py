"""`python -m authz` is the same as the command `authz`."""

from authz.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
