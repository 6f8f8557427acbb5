"""`toolrl prepare`: data sets in, examples out."""

from toolrl_cli.prepare.config import Changes, Choice, PrepareConfig
from toolrl_cli.prepare.run import plan, prepare_examples
from toolrl_cli.prepare.summary import Summary

__all__ = ["Changes", "Choice", "PrepareConfig", "Summary", "plan", "prepare_examples"]
