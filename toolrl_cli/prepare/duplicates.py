"""Near duplicates: examples that ask nearly the same and want calls of the same tools (MinHash, `datasketch`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from toolrl_cli.errors import SetupError
from toolrl_cli.records import Example

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERMUTATIONS = 128
THRESHOLD = 0.8
"""Jaccard index of the word triples from which two texts are nearly the same."""
SHINGLE = 3
SCHEME = "affine32"
WORD = re.compile(r"\w+")


class Signature(NamedTuple):
    """MinHash values of the text of an example, and what must be equal for two to be duplicates at all."""

    kind: tuple[object, ...]
    values: NDArray[Any]


def sign(example: Example) -> Signature:
    """The signature of the dialogue and the target of an example."""
    texts = [str(message.get("content") or "") for message in example.messages if message["role"] != "system"]
    calls = [call["function"] for message in example.messages for call in message.get("tool_calls", [])]
    target = [str(call.arguments) for call in example.target.tool_calls]
    words = WORD.findall(" ".join([*texts, *map(str, calls), *target, example.target.response or ""]).lower())
    shingles = {" ".join(words[i : i + SHINGLE]).encode() for i in range(max(1, len(words) - SHINGLE + 1))}
    minhash = import_datasketch().MinHash(num_perm=PERMUTATIONS, scheme=SCHEME)
    minhash.update_batch(shingles)
    return Signature((len(example.messages), *(call.name for call in example.target.tool_calls)), minhash.hashvalues)


class NearDuplicates:
    """The examples so far that are no duplicates of one another."""

    def __init__(self) -> None:
        datasketch = import_datasketch()
        self._make = datasketch.MinHash
        self._index = datasketch.MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
        self._kept: list[Signature] = []

    def is_new(self, signature: Signature) -> bool:
        """Whether nothing before was nearly the same; then it is kept to be compared with."""
        minhash = self._make(num_perm=PERMUTATIONS, hashvalues=signature.values, scheme=SCHEME)
        for place in self._index.query(minhash):
            other = self._kept[place]
            if other.kind == signature.kind and (other.values == signature.values).mean() >= THRESHOLD:
                return False
        self._index.insert(len(self._kept), minhash, check_duplication=False)
        self._kept.append(signature)
        return True


def import_datasketch() -> Any:
    """The library; raise `SetupError` that says how to install it."""
    try:
        import datasketch
    except ImportError as error:
        raise SetupError("near duplicates need datasketch; run: python -m pip install 'toolrl[data]'") from error
    return datasketch
