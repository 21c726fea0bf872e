#!/usr/bin/env python3
"""Writes src/text/jinja/unicode_tables.cc from Python's own Unicode data: case mappings, letters, unprintables."""

import pathlib
import sys

LIMIT = 0x110000


def ranges(predicate):
    found = []
    for code in range(0x80, LIMIT):
        if not predicate(chr(code)):
            continue
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return found


def case_runs(convert):
    """Runs (first, last, step, delta) over the characters that map to one other character."""
    runs = []
    for code in range(0x80, LIMIT):
        mapped = convert(chr(code))
        if len(mapped) != 1 or ord(mapped) == code:
            continue
        delta = ord(mapped) - code
        if runs:
            first, last, step, known = runs[-1]
            gap = code - last
            if known == delta and (gap == step or (first == last and gap <= 2)):
                runs[-1] = (first, code, gap, known)
                continue
        runs.append((code, code, 1, delta))
    return runs


def specials(convert):
    return [(code, convert(chr(code))) for code in range(0x80, LIMIT) if len(convert(chr(code))) > 1]


def lines(items, per_line):
    return [" ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]


def table(kind, name, items, per_line):
    body = "\n".join("    " + line for line in lines(items, per_line))
    return f"constexpr {kind} {name}[] = {{\n{body}\n}};\n"


def octal(text):
    return "".join(f"\\{byte:03o}" for byte in text.encode())


def main():
    target = pathlib.Path(__file__).resolve().parent.parent / "src/text/jinja/unicode_tables.cc"
    out = ["// Made by tools/make_unicode_tables.py; do not edit.", '#include "text/jinja/unicode_tables.h"', ""]
    out += ["namespace longshore::text::jinja {", "namespace {", "", "// clang-format off"]
    for name, convert in (("kUpper", str.upper), ("kLower", str.lower), ("kTitle", str.title)):
        runs = [f"{{0x{a:x}, 0x{b:x}, {s}, {d}}}," for a, b, s, d in case_runs(convert)]
        out.append(table("CaseRun", name, runs, 4))
        many = [f'{{0x{c:x}, "{octal(t)}"}},' for c, t in specials(convert)]
        out.append(table("CaseSpecial", name + "Special", many, 4))
    for name, predicate in (("kAlpha", str.isalpha), ("kUnprintable", lambda c: not c.isprintable())):
        out.append(table("CodeRange", name, [f"{{0x{a:x}, 0x{b:x}}}," for a, b in ranges(predicate)], 6))
    out += ["", "}  // namespace", ""]
    for name in ("upper", "lower", "title"):
        label = name.capitalize()
        out.append(f"CaseTable {name}_table() {{ return {{k{label}, k{label}Special}}; }}")
    out.append("std::span<const CodeRange> alpha_table() { return kAlpha; }")
    out.append("std::span<const CodeRange> unprintable_table() { return kUnprintable; }")
    out += ["// clang-format on", "", "}  // namespace longshore::text::jinja", ""]
    target.write_text("\n".join(out))
    print(f"{target.name}: Unicode of Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
