"""What the trainers of every training have in common."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from typing import TypeVar, cast

from peft.helpers import disable_input_dtype_casting
from transformers import Trainer

from toolrl_cli.training.checkpoints import ExactResume

T = TypeVar("T", bound=Trainer)


def equip(kind: type[T]) -> type[T]:
    """A trainer class whose runs go on, after any kill, as if nothing had happened, and which spares idle casts."""
    return cast("type[T]", type(kind.__name__, (ExactResume, UncastAdapters, kind), {}))


class UncastAdapters(Trainer):
    """Leaves out the casts of plain LoRA layers that autocast undoes; DoRA and other variants compute with them.

    PEFT raises what comes into a layer to float32, in which its adapter is held, and autocast lowers it again:
    the numbers are the same without, and fewer copies of them wait for the backward pass.
    """

    @cached_property
    def _casts_are_idle(self) -> bool:
        variants = any(getattr(module, "lora_variant", None) for module in self.model.modules())
        return self.accelerator.native_amp and not variants

    def compute_loss_context_manager(self) -> ExitStack:
        """Around the loss of each micro-batch."""
        stack: ExitStack = super().compute_loss_context_manager()
        stack.enter_context(disable_input_dtype_casting(self.model, active=self._casts_are_idle))
        return stack
