"""Draw what the presets pay over the training steps: python docs/plot_presets.py."""

from __future__ import annotations

from pathlib import Path

from toolrl_cli.report.plots import plot_presets

if __name__ == "__main__":
    plot_presets(Path(__file__).parent / "reward-presets.png", last_step=200)
