"""Random mutations of the files of a bundle."""

from __future__ import annotations

import hashlib
import json
import random
import struct

import numpy as np

CARD, WEIGHTS = "card.json", "model.safetensors"
NASTY = [None, True, False, 0, -1, 1, 2, 7, 10**9, 10**12, 2**63, 2**64, 10**30, 10**400]
NASTY += [0.5, -0.0, 1e-320, 1e38, 1e308, "", "x", "../../etc/passwd", "x" * 3000, "\x00", "\ud800", "µ", "1", "NaN"]
NASTY += [[], [[]], {}, {"a": 1}, ["A"] * 50, "RAW:NaN", "RAW:Infinity", "RAW:1e999", "RAW:-1e999"]
NASTY += ["RAW:1" + "0" * 5000, "RAW:" + "[" * 3000, "RAW:" + '{"a":' * 3000]
NASTY += ["RAW:" + "[" * depth + "]" * depth for depth in (500, 100_000)]


def scrambled(raw: bytes, rng: random.Random) -> bytes:
    """Change, delete, insert or repeat random bytes, or cut off the end."""
    data = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        at = rng.randrange(max(1, len(data)))
        match rng.randrange(6):
            case 0 | 1:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 2:
                del data[at : at + rng.choice([1, 2, 8, 100])]
            case 3:
                data[at:at] = rng.randbytes(rng.choice([1, 4, 30]))
            case 4:
                data[at:at] = data[at : at + rng.choice([1, 10, 200])]
            case 5 if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def fields(content: object, rng: random.Random) -> bytes:
    """Replace, delete, repeat or add a random entry of a JSON document."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        parent = content
        while True:
            keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.7:
                parent = parent[key]
                continue
            match rng.randrange(6):
                case 0 | 1 | 2:
                    parent[key] = rng.choice(NASTY)
                case 3:
                    del parent[key]
                case 4 if isinstance(parent, dict):
                    parent[rng.choice(["extra", "TWICE:" + str(key)])] = rng.choice(NASTY)
                case 5 if isinstance(parent, list):
                    parent.insert(0, parent[key])
                case _ if isinstance(parent[key], int | float):
                    parent[key] *= rng.choice([-1, 2, 10, 1000, 10**9])
            break
    return written(content)


def written(content: object) -> bytes:
    """Write JSON, including repeated keys and numbers that no library writes."""
    text = json.dumps(content).replace('"TWICE:', '"')
    for raw in NASTY:
        if isinstance(raw, str) and raw.startswith("RAW:"):
            text = text.replace(json.dumps(raw), raw.removeprefix("RAW:"))
    return text.encode()


def split(weights: bytes) -> tuple[object, bytes]:
    """Split a safetensors file into header and numbers."""
    end = 8 + struct.unpack("<Q", weights[:8])[0]
    return json.loads(weights[8:end]), weights[end:]


def joined(head: bytes, body: bytes) -> bytes:
    """Join header and numbers to a safetensors file."""
    return struct.pack("<Q", len(head)) + head + body


def numbers(weights: bytes, rng: random.Random) -> bytes:
    """Replace some numbers of the weights."""
    head, body = split(weights)
    values = np.frombuffer(body, np.float32).copy()
    for _ in range(rng.choice([0, 1, 1, 5])):
        nasty = [0, -1, 1e-45, 1e8, 3e9, 1e38, np.nan, np.inf, -np.inf, rng.gauss(0, 10)]
        values[rng.randrange(len(values))] = rng.choice(nasty)
    return joined(json.dumps(head).encode(), values.tobytes())


def header(weights: bytes, rng: random.Random) -> bytes:
    """Mutate the header of the weights, or the length of their numbers."""
    head, body = split(weights)
    body = rng.choice([body, body, body, body[:-4], body + bytes(4), body * 2])
    raw = fields(head, rng)
    if rng.random() < 0.1:
        return struct.pack("<Q", rng.choice([0, 1, len(raw) + 1, 2**31, 2**63, 2**64 - 1])) + raw + body
    return joined(raw, body)


def sealed(card: bytes, weights: bytes) -> tuple[bytes, bytes]:
    """Update both hashes of card and weights, like an attacker."""
    try:
        content = json.loads(card)
        kept = json.dumps({key: value for key, value in content.items() if key != "sha256"}, sort_keys=True)
        head, body = split(weights)
        if isinstance(head.get("__metadata__"), dict):
            head["__metadata__"]["card"] = hashlib.sha256(kept.encode() + b"\0").hexdigest()
            weights = joined(json.dumps(head).encode(), body)
    except (ValueError, AttributeError, RecursionError, struct.error):
        head = None
    told = b'"' + hashlib.sha256(weights).hexdigest().encode() + b'"'
    at = card.rfind(b'"sha256":')
    rest = card[at + 9 :].lstrip()
    return (card[: at + 9] + told + rest[66:] if at >= 0 and rest[:1] == b'"' else card), weights
