"""Run the command line with ``python -m carclf``."""

from carclf.cli.app import main

if __name__ == "__main__":
    main()
