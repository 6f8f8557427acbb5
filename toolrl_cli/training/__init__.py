"""Training glue over TRL and PEFT; the only place besides the local engine that imports torch."""

import os

# TRL reports its use to the Hub unless told otherwise before huggingface_hub is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
