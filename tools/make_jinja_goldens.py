#!/usr/bin/env python3
"""Renders the snippets of jinja_snippets.py with jinja2, as transformers sets it up, into tests/data/goldens.

Needs jinja2 3.1. Each line: {"template", "variables", "output"} or, where jinja2 refuses, {..., "error": true}.
"""

import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox

import jinja_snippets


class Generation(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %} marks the model's own text; rendering just writes its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

    def _write(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def record(env, template, variables):
    entry = {"template": template, "variables": variables}
    try:
        entry["output"] = env.from_string(template).render(**variables)
    except Exception:  # whatever stops Python must stop the interpreter too
        entry["error"] = True
    return entry


def main():
    env = environment()
    target = pathlib.Path(__file__).resolve().parent.parent / "tests/data/goldens/jinja-snippets.jsonl"
    entries = [record(env, template, variables) for template, variables in jinja_snippets.all_snippets()]
    target.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
    errors = sum("error" in entry for entry in entries)
    print(f"{target.name}: {len(entries)} snippets, {errors} of them errors")


if __name__ == "__main__":
    main()
