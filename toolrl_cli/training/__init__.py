"""Training glue over TRL and PEFT; the only place besides the local engine that imports torch."""
