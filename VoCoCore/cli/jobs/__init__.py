"""`voco jobs`: what runs there are and how they stand; follow, stop, kill and resume them, export them, free space.

Answers before torch, numpy or rich is imported: people ask often, and scripts more often.
"""

from VoCoCore.cli.jobs.actions import run

__all__ = ["run"]
