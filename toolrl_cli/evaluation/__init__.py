"""`toolrl eval`: entries of a benchmark, completions of an engine, graded results on disk, one summary."""

from toolrl_cli.evaluation.config import BENCHES, EvalConfig
from toolrl_cli.evaluation.run import RESULTS, SUMMARY, evaluate, plan, sample
from toolrl_cli.evaluation.summary import Summary, Table, Tally, summary_tables
from toolrl_cli.jsonl import RecordLog

__all__ = [
    "BENCHES",
    "RESULTS",
    "SUMMARY",
    "EvalConfig",
    "RecordLog",
    "Summary",
    "Table",
    "Tally",
    "evaluate",
    "plan",
    "sample",
    "summary_tables",
]
