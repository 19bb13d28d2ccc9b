"""Write the CLIP-format tokenizer files (vocab.json, merges.txt) of the toy world.

Byte-level BPE as CLIP's: 256 byte symbols, the same 256 ending a word ("</w>"), one merge list that spells every
grammar word into a single token, then <|startoftext|> and <|endoftext|>. Words outside the grammar fall into bytes
(or into pieces that grammar words share). Run: python -m steadyedit.toyworld.training.tokenizer_files
"""

from __future__ import annotations

import json
from pathlib import Path

from ..world.grammar import vocabulary

FOLDER = Path(__file__).parents[1] / "tokenizer"
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes, in CLIP's (GPT-2's) order."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in visible]
    return [chr(b) for b in visible] + [chr(256 + i) for i in range(len(hidden))]


def apply_merges(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Standard BPE: always merge the pair of the lowest rank first."""
    while len(symbols) > 1:
        pairs = [(ranks.get(pair, 1 << 30), i) for i, pair in enumerate(zip(symbols, symbols[1:]))]
        rank, i = min(pairs)
        if rank == 1 << 30:
            break
        symbols = [*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2:]]
    return symbols


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """A merge list under which each of `words` becomes one token.

    Words are completed one by one, from the left; later merges have higher rank numbers, so an earlier word's
    spelling never changes. Short words first, so that they serve as pieces of long ones.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in sorted(words, key=lambda w: (len(w), w)):
        symbols = apply_merges([*word[:-1], word[-1] + "</w>"], ranks)
        while len(symbols) > 1:
            ranks[(symbols[0], symbols[1])] = len(ranks)
            symbols = apply_merges([*word[:-1], word[-1] + "</w>"], ranks)
    return list(ranks)


def write_files(folder: Path = FOLDER) -> int:
    """Write the files; returns the vocabulary's size."""
    letters = sorted({w for w in vocabulary() if w.isalpha()})
    merges = learn_merges(letters)
    symbols = byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *dict.fromkeys(a + b for a, b in merges), START, END]
    vocab = {token: i for i, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "bos_token": START,
        "eos_token": END, "pad_token": END, "unk_token": END, "errors": "replace", "add_prefix_space": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1), encoding="utf-8")
    return len(vocab)


if __name__ == "__main__":
    print(write_files())
