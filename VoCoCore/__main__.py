"""`python -m VoCoCore` is the command `voco`."""

import sys

from VoCoCore.cli import main

if __name__ == "__main__":
    sys.exit(main())
