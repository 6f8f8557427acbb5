"""Training glue over TRL and PEFT; the only place besides the local engine that imports torch."""

import os

# Read once when the libraries are imported: TRL would report its use to the Hub, MLflow to its makers, and
# transformers draw bars of its own.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TQDM_DISABLE", "1")
