"""A reward that a random model can earn."""


def share(completions, **columns):
    """The share of letters in each completion."""
    texts = [completion[-1]["content"] for completion in completions]
    return [sum(map(str.isalpha, text)) / max(len(text), 1) for text in texts]
