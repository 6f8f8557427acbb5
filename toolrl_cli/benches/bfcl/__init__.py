"""The Berkeley Function Calling Leaderboard, graded by its own official checker."""

from toolrl_cli.benches.bfcl.bench import KIND

__all__ = ["KIND"]
