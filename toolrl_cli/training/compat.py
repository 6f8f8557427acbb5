"""Where TRL is made faster without changing its result."""

from __future__ import annotations

import trl.trainer.utils


def score_labelled_positions_only() -> None:
    """Make TRL's fused LM head compute logits only where there is a label, on a CPU too.

    TRL 1.16 does so on devices with Triton; elsewhere it projects the prompt's positions onto the
    vocabulary as well and throws them away, because a fixed shape saves recompilation on Neuron.
    """
    if hasattr(trl.trainer.utils, "_use_triton"):
        trl.trainer.utils._use_triton = lambda device: device.type != "neuron"
