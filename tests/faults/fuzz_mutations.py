"""Inputs made from good ones: bytes that are torn, flipped, repeated, shuffled; trees in which any part is another."""

import copy
import json
from collections.abc import Sequence
from random import Random
from typing import Any

import yaml

DEEP = 3000
"""Levels: more than Python's own stack holds."""
NUMBERS = [
    *("0", "-1", "1e999", "-1e999", "nan", ".nan", ".inf", "-.inf", "1e-400", "9" * 30, "9" * 5000, "-" + "9" * 400),
    *("0x" + "f" * 40, "0o9", "010", "1_000", "8/255", "1/0", "1e5", "18446744073709551616", "9007199254740993", "NaN"),
    *("Infinity", "-Infinity", "-0.0", "1.", ".5", "+3", "1:30:00", "2001-13-45", "2001-01-01T99:00:00Z", "2001-01-01"),
]
TOKENS = [
    *(b"\0", b"\r", b"\n", b"\r\n", b"\t", b"\x85", "\u2028".encode(), "\ufeff".encode(), b"\xff\xfe", b"\xc0\x80"),
    *(
        b"\xed\xa0\x80",
        b'"\\ud800"',
        b"\\u0000",
        b"\x1b[2J",
        "\u202e".encode(),
        "\U0001f4a9".encode(),
        b"\xf4\x90\x80\x80",
    ),
    *(b"{", b"}", b"[", b"]", b'"', b"'", b",", b":", b": ", b"- ", b"#", b"&a ", b"*a", b"!!", b"<<: ", b"? ", b"|\n"),
    *(b">-\n", b"---\n", b"...\n", b"%YAML 9.9\n", b"!!python/object/apply:os.system [ls]", b"!!binary aGk=", b"!!set"),
    *(
        b"!!int ",
        b"!!float ",
        b"!!null ",
        b"!!bool ",
        b"!!merge ",
        b"!!str ",
        b"!!seq ",
        b"!!map ",
        b"!!timestamp ",
        b"~",
    ),
    *(b"null", b"true", b"{}", b"[]", b'""', b"&a [*a]", b"&x {<<: *x}", b"[" * DEEP, b'{"a":' * DEEP, b"- " * DEEP),
    *(b"__proto__", b"__class__", b"../", b"/", b"~root", b"${HOME}", b"%s", b"{0}", b"a" * 5000),
    *(number.encode() for number in NUMBERS),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**30), 0.0, -0.0, 1e308, -1e308, 5e-324, 0.1),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        " ",
        "a",
        "none",
        "..",
        "../x",
        "/",
        "~",
        "~nobody/x",
        "\0",
        "\u2028",
    ),
    *(
        "\ud7ff",
        "x" * 3000,
        "8/255",
        "1/0",
        "0/0",
        "1e-3",
        "nan",
        "null",
        "at",
        "{}",
        "[]",
        "every 0",
        "every 3",
        "last",
    ),
    *([], {}, [[]], [{}], [None], {"": None}, {"name": None}, {"name": []}, {"name": "at"}, ["at", "at"], [[["at"]]]),
    *(
        [0] * 300,
        {"a": {"b": {"c": {}}}},
        {"name": "awp", "over": {"name": "awp", "over": "at"}},
        "sqlite:///x",
        "s3://",
    ),
]


def bent(random: Random, content: bytes, others: Sequence[bytes] = (), tokens: Sequence[bytes] = TOKENS) -> bytes:
    """The bytes after a few accidents.

    Args:
        random: where chance comes from.
        content: what to damage.
        others: from which parts may come.
        tokens: what may be put in.
    """
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        content = random.choice(_ACCIDENTS)(random, content, others, tokens)
        if len(content) > 1 << 17:
            content = content[: 1 << 17]
    return content


def _span(random: Random, content: bytes) -> tuple[int, int]:
    low = random.randint(0, len(content))
    return low, min(len(content), low + random.choice((1, 1, 2, 8, 40, 300, len(content))))


def _flip(random: Random, content: bytes, *_: Any) -> bytes:
    if not content:
        return content
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << random.randrange(8))]) + content[place + 1 :]


def _noise(random: Random, content: bytes, *_: Any) -> bytes:
    low, high = _span(random, content)
    return content[:low] + random.randbytes(random.choice((1, 2, 9, high - low))) + content[high:]


def _tear(random: Random, content: bytes, *_: Any) -> bytes:
    place = random.randint(0, len(content))
    return content[:place] if random.random() < 0.7 else content[place:]


def _drop(random: Random, content: bytes, *_: Any) -> bytes:
    low, high = _span(random, content)
    return content[:low] + content[high:]


def _repeat(random: Random, content: bytes, *_: Any) -> bytes:
    low, high = _span(random, content)
    return content[:high] + content[low:high] * random.choice((1, 2, 40)) + content[high:]


def _put(random: Random, content: bytes, _others: Any, tokens: Sequence[bytes]) -> bytes:
    low, high = _span(random, content)
    return content[:low] + random.choice(tokens) + content[random.choice((low, high)) :]


def _lines(random: Random, content: bytes, *_: Any) -> bytes:
    lines = content.splitlines(keepends=True)
    if lines:
        match random.randrange(4):
            case 0:
                random.shuffle(lines)
            case 1:
                lines.insert(random.randrange(len(lines)), random.choice(lines))
            case 2:
                lines.pop(random.randrange(len(lines)))
            case _:
                place = random.randrange(len(lines))
                lines[place] = b" " * random.choice((1, 2, 4)) + lines[place]
    return b"".join(lines)


def _number(random: Random, content: bytes, *_: Any) -> bytes:
    """Another number where there is one."""
    places = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    if not places:
        return content
    low = high = random.choice(places)
    while high < len(content) and 48 <= content[high] <= 57:
        high += 1
    return content[:low] + random.choice(NUMBERS).encode() + content[high:]


def _cross(random: Random, content: bytes, others: Sequence[bytes], _tokens: Any) -> bytes:
    if not others:
        return content
    other = random.choice(others)
    low, high = _span(random, other)
    place = random.randint(0, len(content))
    return content[:place] + other[low:high] + content[place:]


_ACCIDENTS = (_flip, _noise, _tear, _drop, _repeat, _put, _put, _lines, _number, _cross)


def changed_tree(random: Random, tree: Any, values: Sequence[Any] = VALUES) -> Any:
    """Plain data with a few parts replaced, lost, renamed, repeated or wrapped."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        tree = _changed_once(random, tree, values)
    return tree


def _changed_once(random: Random, tree: Any, values: Sequence[Any]) -> Any:
    places = list(_places(tree))
    if not places:
        return random.choice(values)
    holder, key = random.choice(places)
    other, other_key = random.choice(places)
    match random.randrange(7):
        case 0 | 1:
            holder[key] = copy.deepcopy(random.choice(values))
        case 2:
            del holder[key]
        case 3:
            holder[key] = [holder[key]]
        case 4:
            holder[key] = copy.deepcopy(other[other_key])
        case 5 if isinstance(holder, dict):
            holder[random.choice([f"{key}x", "", "name", "\u2028", *map(str, holder)])] = holder.pop(key)
        case _:
            if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(other[other_key]))
            else:
                holder[str(other_key)] = copy.deepcopy(other[other_key])
    return tree


def _places(tree: Any) -> Any:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def changed_json(random: Random, content: bytes) -> bytes:
    """JSON whose data are others; as it is where it is none."""
    try:
        return json.dumps(changed_tree(random, json.loads(content))).encode()
    except (ValueError, RecursionError):
        return content


def changed_yaml(random: Random, content: bytes) -> bytes:
    """The same for YAML, in block or flow style."""
    try:
        tree = changed_tree(random, yaml.load(content, Loader=yaml.CSafeLoader))
        style = random.choice((True, False, None))
        # libyaml's emitter: PyYAML's own takes longer than everything that reads what it writes
        dumped: str = yaml.dump(tree, Dumper=yaml.CSafeDumper, default_flow_style=style, allow_unicode=True)
    # all of them raised by PyYAML
    except (yaml.YAMLError, ValueError, RecursionError, IndexError, TypeError, AttributeError):
        return content
    return dumped.encode()


def nested(random: Random) -> bytes:
    """Trees that grow beyond bounds when they are written out, or hold themselves."""
    width, depth = random.choice((2, 9, 40)), random.choice((3, 9, 30))
    lines = ["a0: &a0 [x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, depth)]
    bomb = "\n".join(lines) + f"\ngrid: *a{depth - 1}\n"
    merged = "".join(
        f"b{level}: &b{level} {{<<: [{', '.join([f'*b{level - 1}'] * 9)}], k{level}: 1}}\n" for level in range(1, 20)
    )
    itself = [
        "grid: &a {methods: *a}\n",
        "&a [*a]",
        "&a {x: &b {y: *a, z: *b}}\n",
        "grid: &g\n  <<: *g\n  seeds: [0]\n",
    ]
    deep = random.choice(("[", "{a: ", "- ", "? ", "[[],", "!!seq [")) * random.choice((10, 63, 64, 65, 5000, 60000))
    return random.choice([bomb, "b0: &b0 {k: 1}\n" + merged + "grid: *b19\n", *itself, deep, f"grid: {deep}"]).encode()
