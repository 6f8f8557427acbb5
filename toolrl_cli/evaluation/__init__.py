"""`toolrl eval`: entries of a benchmark, completions of an engine, graded results on disk, one summary."""

from toolrl_cli.evaluation.config import EvalConfig
from toolrl_cli.evaluation.gates import FAIL_UNDER, MAX_DROP, read_gates
from toolrl_cli.evaluation.planning import note_mismatch, pick, read_ids, sample, to_prompt
from toolrl_cli.evaluation.recorded import RESULTS, SUMMARY, Recorded, read_recorded
from toolrl_cli.evaluation.rescore import rescore
from toolrl_cli.evaluation.review import Review, ReviewConfig, review
from toolrl_cli.evaluation.run import evaluate, plan
from toolrl_cli.evaluation.show import Exhibit, find_exhibits
from toolrl_cli.evaluation.summary import Summary, Table, Tally, summary_tables

__all__ = [
    "FAIL_UNDER",
    "MAX_DROP",
    "RESULTS",
    "SUMMARY",
    "EvalConfig",
    "Exhibit",
    "Recorded",
    "Review",
    "ReviewConfig",
    "Summary",
    "Table",
    "Tally",
    "evaluate",
    "find_exhibits",
    "note_mismatch",
    "pick",
    "plan",
    "read_gates",
    "read_ids",
    "read_recorded",
    "rescore",
    "review",
    "sample",
    "summary_tables",
    "to_prompt",
]
