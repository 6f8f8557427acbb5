"""Where a completion ends: the same in training, sampling and evaluation."""

from __future__ import annotations

from typing import Any


def end_of_turn(tokenizer: Any) -> str:
    """What the chat template writes after an assistant's text, where generation is to stop."""
    dialogue = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    end: str = tokenizer.apply_chat_template(dialogue, tokenize=False).rpartition("answer")[2]
    return end if end.strip() else f"{tokenizer.eos_token or ''}{end}"


def stop_token_ids(tokenizer: Any, generation_config: Any = None) -> list[int]:
    """The tokens that end a completion, ascending.

    They are what the model's generation config declares, the tokenizer's end, and the special token by which the chat
    template ends a turn: base models have templates whose turns end otherwise than their texts.
    """
    declared = getattr(generation_config, "eos_token_id", None)
    stops = set(declared if isinstance(declared, list) else [declared]) | {tokenizer.eos_token_id}
    special = tokenizer.added_tokens_decoder
    ends = tokenizer(end_of_turn(tokenizer), add_special_tokens=False)["input_ids"]
    stops |= set([token for token in ends if token in special and special[token].special][:1])
    return sorted(stops - {None})


def declare_stops(model: Any, tokenizer: Any) -> None:
    """Have a model's generation end where its completions do."""
    model.generation_config.eos_token_id = stop_token_ids(tokenizer, model.generation_config) or None
