"""Raw rows of tool-call data sets to examples: one file a source, one registry."""
