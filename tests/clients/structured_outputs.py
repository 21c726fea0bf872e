"""Samples outputs of the real program under random schemas and checks every one with jsonschema.

usage: structured_outputs.py LONGSHORE MODEL [--schemas N] [--outputs N] [--seed N] [--threads N]

Each schema gets the same number of outputs, sampled at temperature 1.5 as one batch. An output that ended by itself must
be JSON that satisfies the schema; one that was cut must have been cut by the limit of tokens. Exit code 1 otherwise.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import jsonschema

PATTERNS = [
    "^[a-z]{2,8}$",
    "^[A-Z][a-z]+( [A-Z][a-z]+)?$",
    "^\\+?[0-9]{3}-[0-9]{4}$",
    "^(red|green|blue)-[0-9]+$",
    "^[^@]{1,10}$",
    "^#[0-9a-f]{6}$",
    "^\\d{4}-Q[1-4]$",
    "ing$",
]
FORMATS = ["date-time", "date", "uuid", "email"]


class Schemas:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def string(self):
        kind = self.random.randrange(6)
        if kind == 0:
            return {"type": "string", "format": self.random.choice(FORMATS)}
        if kind == 1:
            return {"type": "string", "pattern": self.random.choice(PATTERNS)}
        if kind == 2:
            return {"type": "string", "pattern": "^[a-z ]*$", "minLength": 3, "maxLength": 12}
        low = self.random.randrange(4)
        return {"type": "string", "minLength": low, "maxLength": low + self.random.randrange(1, 25)}

    def number(self):
        schema = {"type": self.random.choice(["integer", "number"])}
        low = self.random.choice([-1000, -7.25, -1, 0, 0.5, 3, 99])
        high = low + self.random.choice([0.5, 1, 9, 250.75, 100000])
        if self.random.random() < 0.6:
            schema[self.random.choice(["minimum", "exclusiveMinimum"])] = low
        if self.random.random() < 0.6:
            schema[self.random.choice(["maximum", "exclusiveMaximum"])] = high + 1
        return schema

    def literal(self):
        values = ["alpha", "beta \"x\"", "größe", 1, 2.5, -3, True, None, {"a": [1]}, ["b", {}]]
        if self.random.random() < 0.3:
            return {"const": self.random.choice(values)}
        return {"enum": self.random.sample(values, self.random.randrange(2, 6))}

    def array(self, depth):
        low = self.random.randrange(3)
        schema = {"type": "array", "items": self.any(depth - 1), "minItems": low, "maxItems": low + self.random.randrange(1, 4)}
        if self.random.random() < 0.3:
            schema["prefixItems"] = [self.any(depth - 1) for _ in range(self.random.randrange(1, 3))]
        return schema

    def object(self, depth):
        names = self.random.sample(["name", "id", "größe", "a b", "quote\"", "items", "value", "kind", "x"], self.random.randrange(1, 5))
        schema = {"type": "object", "properties": {name: self.any(depth - 1) for name in names}}
        schema["required"] = [name for name in names if self.random.random() < 0.6]
        kind = self.random.random()
        if kind < 0.75:
            schema["additionalProperties"] = False
        elif kind < 0.85:
            schema["additionalProperties"] = {"type": "integer", "minimum": 0}
        return schema

    def union(self, depth):
        options = [self.any(depth - 1) for _ in range(self.random.randrange(2, 4))]
        return {"anyOf": options}

    def joined(self, depth):
        return {
            "allOf": [
                {"type": "object", "properties": {"base": self.any(depth - 1)}, "required": ["base"]},
                {"type": "object", "properties": {"more": self.any(depth - 1)}},
            ],
            "properties": {"base": {}, "own": self.any(depth - 1)},
        }

    def tree(self):
        return {
            "$ref": "#/$defs/node",
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {
                        "label": {"type": "string", "maxLength": 8},
                        "children": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/node"}},
                    },
                    "required": ["label"],
                    "additionalProperties": False,
                }
            },
        }

    def any(self, depth):
        makers = [self.string, self.number, self.literal, lambda: {"type": "boolean"}, lambda: {"type": ["string", "null"], "maxLength": 10}]
        if depth > 0:
            makers += [lambda: self.array(depth), lambda: self.object(depth), lambda: self.object(depth), lambda: self.union(depth)]
        return self.random.choice(makers)()

    def root(self, index):
        if index % 20 == 7:
            return self.tree()
        if index % 20 == 13:
            return {"type": "object"}
        if index % 10 == 3:
            return self.joined(2)
        return self.object(3) if index % 4 else self.array(3)


def sample(arguments, schema, count, seed, folder):
    (folder / "schema.json").write_text(json.dumps(schema))
    lines = [json.dumps({"prompt": "The record:", "seed": seed * 1000003 + i}) for i in range(count)]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [arguments.program, "generate", arguments.model, "--file", folder / "prompts.jsonl", "--schema", folder / "schema.json", "--json"]
        + ["--temperature", "1.5", "--top-p", "1", "--max-tokens", "160", "--threads", str(arguments.threads)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stderr.strip()}\nschema: {json.dumps(schema)}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def fault_of(validator, output):
    if output["finish_reason"] == "length":
        return None
    if output["finish_reason"] != "stop":
        return "ended by " + output["finish_reason"]
    try:
        value = json.loads(output["text"])
    except ValueError as error:
        return f"no JSON: {error}"
    error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    return error.message if error else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--schemas", type=int, default=12)
    parser.add_argument("--outputs", type=int, default=96, help="of all schemas together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="of the program; 0: all CPUs")
    arguments = parser.parse_args()
    schemas = Schemas(arguments.seed)
    each = arguments.outputs // arguments.schemas
    outputs = cut = faults = tokens = 0
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    with tempfile.TemporaryDirectory() as folder:
        for index in range(arguments.schemas):
            schema = schemas.root(index)
            validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
            for output in sample(arguments, schema, each, index, pathlib.Path(folder)):
                outputs += 1
                tokens += len(output["ids"])
                cut += output["finish_reason"] == "length"
                fault = fault_of(validator, output)
                if fault:
                    faults += 1
                    print(f"schema {json.dumps(schema)}\n  output {output['text']!r}\n  {fault}", flush=True)
            if index % 10 == 9:
                print(f"{index + 1} schemas, {outputs} outputs, {cut} cut, {faults} violations", flush=True)
    print(f"{arguments.schemas} schemas, {outputs} outputs of {tokens} tokens, {cut} cut by max_tokens, {faults} violations")
    sys.exit(1 if faults or outputs == 0 else 0)


if __name__ == "__main__":
    main()
