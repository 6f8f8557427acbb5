"""Where TRL is made faster without changing its result."""

from __future__ import annotations

import trl.trainer.utils

from toolrl_cli.training.models import find_device


def score_labelled_positions_only() -> None:
    """Make TRL's fused LM head compute logits only where there is a label, on a CPU too.

    TRL 1.16 does so on devices with Triton; elsewhere it projects the prompt's positions onto the
    vocabulary as well and throws them away, because a fixed shape saves recompilation on Neuron.
    """
    if hasattr(trl.trainer.utils, "_use_triton"):
        trl.trainer.utils._use_triton = lambda device: device.type != "neuron"


def project_in_small_tiles() -> None:
    """Make TRL's fused LM head work on 1024 tokens of the vocabulary at a time where it runs on a CPU.

    TRL takes 32768, for few kernel launches; on a CPU the intermediate values of such a tile fill a
    gigabyte, and the time goes into fetching pages for them.
    """
    if hasattr(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE") and find_device().type == "cpu":
        trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE = 1024
