"""The command line `voco`: parse, call one function, print. Each command is one module, imported when it is asked for.

Exit codes: 0 done, 2 usage or settings, 3 data, 4 environment, 5 stopped on request, 1 a defect of ours.
"""

from VoCoCore.cli.main import main

__all__ = ["main"]
