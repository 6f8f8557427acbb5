"""One thin file a command: options, one library call, one print.

They do without `from __future__ import annotations`: Typer would evaluate each annotation anew, six times.
"""
