"""Files of completions to scored files and a summary."""

from toolrl_cli.scoring.run import ScoreConfig, check, score_file

__all__ = ["ScoreConfig", "check", "score_file"]
