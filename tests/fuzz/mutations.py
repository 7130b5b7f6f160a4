"""Damage to files: at random bytes, and where it gets past checksums and parsers."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from typing import Any

import yaml

# fmt: off
TOKENS = (b"nan", b"-1", b"1e999", b"null", b"[]", b"{}", b"true", b'""', b"0x10", b"99999999999999999999", b"\xff\xfe",
          b"../../../../etc/passwd", b"&a [*a, *a]", b"!!python/object/apply:os.system [ls]", b"\x00", b"\n", b",",
          b":", b"\x80\x04", b"cos\nsystem\n", b"\xe2\x80\xae", b"'", b'"', b"%s", b"\\u0000")
NUMBERS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
VALUES: tuple[Any, ...] = (None, True, 0, -1, 1, 10**30, 1e-300, float("nan"), float("inf"), "", "x", "../..", "deq",
                           "gmf", "\u202e", [], {}, [[]], {"a": 1}, [1, "a", None], -0.5, 2**31, 10**7)
# fmt: on


def damaged(data: bytes, rng: random.Random, name: str = "") -> bytes:
    """A mutation of a file's content.

    Args:
        data: the valid content.
        rng: random numbers.
        name: of the file, whose suffix says what else than bytes can be changed.
    """
    chosen = rng.random()
    if chosen < 0.5 and name.endswith((".json", ".yaml")):
        return _tree(data, rng, name)
    if chosen < 0.5 and name.endswith((".npz", ".ckpt")):
        return _zip(data, rng)
    return _bytes(data, rng)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        where = rng.randrange(len(out) + 1)
        kind = rng.randrange(7)
        if kind == 0 and where < len(out):
            out[where] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[where : where + rng.choice((1, 8, 64))] = b""
        elif kind == 2:
            out[where:where] = rng.choice(TOKENS)
        elif kind == 3:
            size = rng.choice((1, 2, 4, 8))
            number = (rng.choice(NUMBERS) & (256**size - 1)).to_bytes(size, rng.choice(("little", "big")))
            out[where : where + size] = number
        elif kind == 4:
            begin = rng.randrange(len(out) + 1)
            out[where:where] = out[begin : begin + rng.choice((1, 16, 256))]
        elif kind == 5:
            del out[where:]
        else:
            out[where : where + 4] = rng.randbytes(4)
    return bytes(out)


def _zip(data: bytes, rng: random.Random) -> bytes:
    """Damage inside of an archive, its checksums put right."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        victim = rng.choice(names)
        for name in names:
            content = old.read(name)
            if name == victim:
                if rng.random() < 0.1:
                    continue
                if rng.random() < 0.1:
                    name = rng.choice(("../" + name, "/tmp/" + name, name * 50, "x"))  # noqa: PLW2901
                # Most of what matters stands at the beginning, before the numbers.
                head = min(len(content), rng.choice((128, len(content))))
                content = _bytes(content[:head], rng) + content[head:]
            new.writestr(name, content)
    return sink.getvalue()


def _tree(data: bytes, rng: random.Random, name: str) -> bytes:
    """One value, somewhere, replaced, removed or repeated."""
    content = json.loads(data) if name.endswith(".json") else yaml.safe_load(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = content
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = rng.choice(keys)
            below = place[key]
            if not isinstance(below, (dict, list)) or not below or rng.random() < 0.3:
                if rng.random() < 0.15:
                    del place[key]
                elif isinstance(place, dict) and rng.random() < 0.1:
                    place[rng.choice(("", "x", "name", "../x"))] = copy.deepcopy(rng.choice(VALUES))
                else:
                    place[key] = copy.deepcopy(rng.choice(VALUES))
                break
            place = below
    return (json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content)).encode()
