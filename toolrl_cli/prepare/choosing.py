"""Which of the converted examples are written, in what order, and to which files."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.jsonl import cut_lines, dump_json, load_json, open_atomic, read_piece, read_records, write_records
from toolrl_cli.parallel import map_in_order
from toolrl_cli.prepare.changing import change
from toolrl_cli.prepare.config import Changes, Choice, PrepareConfig
from toolrl_cli.prepare.contamination import Overlap, read_benchmarks
from toolrl_cli.prepare.statistics import find_tokenizer, make_prompt_counter
from toolrl_cli.prepare.summary import Summary
from toolrl_cli.records import Example, Json, scored_total
from toolrl_cli.scoring.tally import percentiles
from toolrl_cli.training.text_format import choose_format

if TYPE_CHECKING:
    from toolrl_cli.prepare.duplicates import Signature

PIECE = 1 << 20
"""Bytes."""
BATCH = 500
"""Lines that are written at a time."""
PERCENTILES = (50, 90, 95, 99)
Copied = tuple[list[bytes], Counter[str]]
"""Lines, and how many of them were changed, by change."""


class Entry(NamedTuple):
    """An example in the file of all: where it stands, and what the choice looks at; hashes stand for texts."""

    start: int
    size: int
    id: str
    source: str
    content: int
    dialogue: int
    tools: int
    tokens: int = 0
    overlap: Overlap | None = None
    signature: Signature | None = None


def write_choice(examples: Path, config: PrepareConfig, summary: Summary) -> None:
    """Write the chosen examples of a file to the output and its splits.

    Memory grows with the number of examples, by some hundred bytes each, and a kilobyte more for `dedupe near`.

    Raises:
        ConfigError: the mix names a source that is not there, or the splits take everything.
        DataError: a source has fewer examples than the mix takes, or nothing is left.
    """
    choice = config.choice
    entries = list(describe(examples, config))
    chosen = filter_entries(entries, choice, config, summary)
    if choice.mix:
        chosen = mix(chosen, choice.mix, config.seed, summary)
    if choice.shuffle:
        chosen = random.Random(config.seed).sample(chosen, len(chosen))
    if config.limit is not None and len(chosen) > config.limit:
        summary.dropped["over the limit"] += len(chosen) - config.limit
        chosen = chosen[: config.limit]
    if not chosen:
        raise DataError(f"{config.output}: not written, no example is left of {len(entries)}")
    parts = split(chosen, choice.split, config.seed)
    for name, path in config.split_paths.items():
        summary.splits[str(path)] = write_lines(examples, parts[name], path, config, summary)
    summary.written = write_lines(examples, parts[""], config.output, config, summary)


def describe(examples: Path, config: PrepareConfig) -> Iterator[Entry]:
    """An entry for each line, in order."""
    pieces = ((examples, piece) for piece in cut_lines(examples, PIECE))
    for found in map_in_order(make_describer, (config,), pieces, config.workers):
        yield from found


def make_describer(config: PrepareConfig) -> Callable[[tuple[Path, Any]], list[Entry]]:
    """The function that describes the lines of a piece: examples as they are, and how long their prompts will be."""
    choice = config.choice
    find_overlap = read_benchmarks(choice.decontaminate).find if choice.decontaminate else None
    count_tokens = make_token_counter(choice) if choice.max_prompt_tokens or choice.tokenizer else None
    sign: Callable[[Example], Signature] | None = None
    if choice.dedupe == "near":
        from toolrl_cli.prepare.duplicates import sign

    def describe_piece(task: tuple[Path, Any]) -> list[Entry]:
        path, piece = task
        start, entries = piece[0], []
        for line in read_piece(path, piece).splitlines(keepends=True):
            example = Example.from_json(load_json(line))
            entries.append(
                Entry(
                    start,
                    len(line),
                    example.id,
                    example.source,
                    content_hash(example),
                    dialogue_hash(example),
                    tools_hash(example),
                    count_tokens(change_late(example, config)) if count_tokens else 0,
                    find_overlap(example) if find_overlap else None,
                    sign(example) if sign else None,
                )
            )
            start += len(line)
        return entries

    return describe_piece


def hash_of(value: object) -> int:
    """64 bits that stand for a value, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(value).encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def content_hash(example: Example) -> int:
    """Stands for all that is learned: tools, history and target."""
    return hash_of((example.tools, example.messages, example.target))


def dialogue_hash(example: Example) -> int:
    """Stands for the question that the steps of a dialogue share: the first user message."""
    return hash_of(next((m.get("content") for m in example.messages if m["role"] == "user"), None))


def tools_hash(example: Example) -> int:
    """Stands for the set of tools by the names they had before they were masked, 0 for none."""
    masked = example.meta.get("masked_names")
    original = masked if isinstance(masked, dict) else {}
    names = [tool["function"]["name"] for tool in example.tools]
    return hash_of(sorted(str(original.get(name, name)) for name in names)) if names else 0


def make_token_counter(choice: Choice) -> Callable[[Example], int]:
    """The function that counts the tokens of a prompt."""
    assert choice.tokenizer is not None  # `check_options` has made sure
    text_format = choose_format(choice.tokenizer, choice.format, choice.template)
    return make_prompt_counter(find_tokenizer(choice.tokenizer), text_format)


def filter_entries(entries: list[Entry], choice: Choice, config: PrepareConfig, summary: Summary) -> list[Entry]:
    """The entries that pass every test; the others are counted by reason."""
    if choice.dedupe:
        firsts = {entry.content: entry for entry in reversed(entries)}
        entries = keep(entries, lambda e: firsts[e.content] is e, "exact duplicate", summary)
    if choice.dedupe == "near":
        from toolrl_cli.prepare.duplicates import NearDuplicates

        near = NearDuplicates()
        entries = keep(
            entries, lambda e: e.signature is not None and near.is_new(e.signature), "near duplicate", summary
        )
    if choice.decontaminate:
        entries = drop_contaminated(entries, config.contaminated_path, summary)
    if choice.tokenizer:
        counts = Counter(entry.tokens for entry in entries)
        summary.notes["prompt_tokens"] = {**percentiles(counts, PERCENTILES), "max": max(counts)} if counts else {}
    if (limit := choice.max_prompt_tokens) is not None:
        entries = keep(entries, lambda e: e.tokens <= limit, f"prompt over {limit} tokens", summary)
    if choice.keep_learnable:
        entries = keep_learnable(entries, choice.keep_learnable, config.seed, summary)
    return entries


def keep(entries: list[Entry], test: Callable[[Entry], bool], reason: str, summary: Summary) -> list[Entry]:
    """The entries that pass a test; the others are counted."""
    kept = [entry for entry in entries if test(entry)]
    if len(kept) < len(entries):
        summary.dropped[reason] += len(entries) - len(kept)
    return kept


def drop_contaminated(entries: list[Entry], report: Path | None, summary: Summary) -> list[Entry]:
    """The entries that overlap no benchmark; the others are written to a report with what they share."""
    found = [(entry, entry.overlap) for entry in entries if entry.overlap]
    for _, overlap in found:
        summary.dropped[f"overlaps {overlap.benchmark}"] += 1
    if report and found:
        write_records(report, ({"id": entry.id, **overlap_to_json(overlap)} for entry, overlap in found))
        summary.notes["contaminated"] = str(report)
    elif report:
        report.unlink(missing_ok=True)
    return [entry for entry in entries if not entry.overlap]


def overlap_to_json(overlap: Overlap) -> Json:
    """An overlap as JSON values."""
    return {"benchmark": overlap.benchmark, "entry": overlap.entry, "where": overlap.where, "words": overlap.words}


def keep_learnable(entries: list[Entry], scored: Path, seed: int, summary: Summary) -> list[Entry]:
    """The entries whose completions did not all earn the same, in the proportions that the sources had before.

    An example without completions in the scored file stays.

    Raises:
        DataError: the file is malformed, or has none of the ids.
    """
    ranges = read_ranges(scored)
    if not any(entry.id in ranges for entry in entries):
        raise DataError(f"{scored}: none of its ids is among the examples; it must score completions of these")
    learnable = keep(entries, lambda e: e.id not in ranges or ranges[e.id][0] < ranges[e.id][1], "flat group", summary)
    before, after = (Counter(entry.source for entry in some) for some in (entries, learnable))
    if gone := sorted(source for source in before if not after[source]):
        raise DataError(
            f"{scored}: no example of {', '.join(gone)} is learnable, and the sources are to keep their proportions; "
            f"prepare the others alone"
        )
    share = min(after[source] / count for source, count in before.items())
    wanted = {source: floor(count * share + 1e-9) for source, count in before.items()}
    return sample(learnable, wanted, seed, "left out to keep the mix", summary)


def read_ranges(scored: Path) -> dict[str, tuple[float, float]]:
    """The lowest and highest total of each id."""
    ranges: dict[str, tuple[float, float]] = {}
    for id, total in read_records(scored, scored_total):
        low, high = ranges.get(id, (total, total))
        ranges[id] = min(low, total), max(high, total)
    return ranges


def mix(entries: list[Entry], wanted: Mapping[str, int], seed: int, summary: Summary) -> list[Entry]:
    """So many examples of each source, drawn by chance, in their order; those of other sources are left out.

    Raises:
        ConfigError: a source does not occur.
        DataError: a source has too few examples.
    """
    found = Counter(entry.source for entry in entries)
    for source, count in wanted.items():
        if source not in found:
            raise ConfigError(f"--mix {source}: no example is of this source; there are {', '.join(sorted(found))}")
        if found[source] < count:
            raise DataError(f"--mix {source}={count}: only {found[source]} examples are left of this source")
    return sample(entries, wanted, seed, "not in the mix", summary)


def sample(entries: list[Entry], wanted: Mapping[str, int], seed: int, reason: str, summary: Summary) -> list[Entry]:
    """So many entries of each source, drawn by chance, in their order."""
    places: dict[str, list[int]] = {source: [] for source in sorted(wanted)}
    for place, entry in enumerate(entries):
        if entry.source in places:
            places[entry.source].append(place)
    chance = random.Random(seed)
    kept = sorted(place for source, some in places.items() for place in chance.sample(some, wanted[source]))
    if len(kept) < len(entries):
        summary.dropped[reason] += len(entries) - len(kept)
    return [entries[place] for place in kept]


def split(entries: list[Entry], shares: Mapping[str, float], seed: int) -> dict[str, list[Entry]]:
    """The entries of each split by name, of the rest under the empty name, in their order.

    What shares a dialogue or a set of tools stays together, so a split can miss its share by what
    one such family holds; families are drawn by chance.

    Raises:
        DataError: the families are so large that a split would be empty.
    """
    parts: dict[str, list[Entry]] = {name: [] for name in (*shares, "")}
    family = find_families(entries)
    members: dict[int, list[int]] = {}
    for place, of in enumerate(family):
        members.setdefault(of, []).append(place)
    families = list(members.values())
    random.Random(seed).shuffle(families)
    target = {name: share * len(entries) for name, share in shares.items()}
    sizes = dict.fromkeys(shares, 0)
    where = [""] * len(entries)
    for places in families:
        name = next((n for n in shares if sizes[n] + len(places) <= target[n]), "")
        if name:
            sizes[name] += len(places)
            for place in places:
                where[place] = name
    for name, size in sizes.items():
        if not size:
            smallest = min(map(len, families))
            raise DataError(
                f"--split {name}={shares[name]:g}: would be empty; the smallest family of examples that share a "
                f"dialogue or tools holds {smallest} of {len(entries)}"
            )
    for place, entry in enumerate(entries):
        parts[where[place]].append(entry)
    return parts


def find_families(entries: Sequence[Entry]) -> list[int]:
    """For each entry the first one that it is tied to, by shared dialogues and sets of tools, over others too."""
    parent = list(range(len(entries)))

    def find(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[tuple[str, int], int] = {}
    for place, entry in enumerate(entries):
        keys = [("dialogue", entry.dialogue), *([("tools", entry.tools)] if entry.tools else [])]
        for key in keys:
            a, b = find(first.setdefault(key, place)), find(place)
            parent[max(a, b)] = min(a, b)
    return [find(place) for place in range(len(entries))]


def write_lines(examples: Path, entries: Sequence[Entry], path: Path, config: PrepareConfig, summary: Summary) -> int:
    """Write the lines of entries to a path, with the changes that are left to make; their number."""
    places = [(entry.start, entry.size) for entry in entries]
    batches = (places[i : i + BATCH] for i in range(0, len(places), BATCH))
    workers = 1 if config.late_changes == Changes() else config.workers
    with open_atomic(path) as stream:
        for lines, changed in map_in_order(make_copier, (examples, config), batches, workers):
            stream.buffer.writelines(lines)  # type: ignore[attr-defined]
            summary.changed += changed
    return len(places)


def make_copier(examples: Path, config: PrepareConfig) -> Callable[[list[tuple[int, int]]], Copied]:
    """The function that reads lines of a file, each by its start and size, and changes them."""

    def copy(places: list[tuple[int, int]]) -> Copied:
        lines, counts = [], Counter[str]()
        with examples.open("rb") as stream:
            for start, size in places:
                stream.seek(start)
                lines.append(stream.read(size))
        if config.late_changes != Changes():
            changed = (change_late(Example.from_json(load_json(line)), config, counts) for line in lines)
            lines = [dump_json(example.to_json()).encode() + b"\n" for example in changed]
        return lines, counts

    return copy


def change_late(example: Example, config: PrepareConfig, counts: Counter[str] | None = None) -> Example:
    """An example with the changes that are left to make."""
    return change([example], config.late_changes, config.seed, Counter() if counts is None else counts)[0]
