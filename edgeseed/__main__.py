"""`python -m edgeseed`."""

from edgeseed.cli import main

if __name__ == "__main__":
    main()
