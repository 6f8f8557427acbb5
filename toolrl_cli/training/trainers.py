"""What the trainers of every training have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, TypeVar, cast

from peft.tuners.lora import LoraLayer
from transformers import Trainer

from toolrl_cli.training.checkpoints import ExactResume

T = TypeVar("T", bound=Trainer)


def equip(kind: type[T]) -> type[T]:
    """A trainer class whose runs go on, after any kill, as if nothing had happened, and which spares idle casts."""
    return cast("type[T]", type(kind.__name__, (ExactResume, UncastAdapters, kind), {}))


class UncastAdapters(Trainer):
    """Leaves out the casts of plain LoRA layers that autocast undoes.

    PEFT raises what comes into a layer to float32, in which its adapter is held, and autocast lowers it again:
    the numbers are the same without, and fewer copies of them wait for the backward pass.
    """

    @cached_property
    def _plain_layers(self) -> list[Any]:
        layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        return [layer for layer in layers if not layer.lora_variant]

    def compute_loss_context_manager(self) -> ExitStack:
        """Around the loss of each micro-batch."""
        stack: ExitStack = super().compute_loss_context_manager()
        if self.accelerator.native_amp:
            stack.enter_context(uncast(self._plain_layers))
        return stack


@contextmanager
def uncast(layers: Sequence[Any]) -> Iterator[None]:
    """Within the block, layers of PEFT compute what they are given in the format that it has."""
    for layer in layers:
        layer.cast_input_dtype_enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.cast_input_dtype_enabled = True
