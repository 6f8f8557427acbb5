"""`python -m toolrl_cli` is `toolrl`."""

from toolrl_cli.cli import app

if __name__ == "__main__":
    app(prog_name="toolrl")
