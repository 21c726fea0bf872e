"""The schemas and tokens of `longshore bench grammar` through XGrammar (PyPI: xgrammar), in the same run.

usage: compare_grammar_bench.py LONGSHORE [--rounds N]

Both get the same vocabulary, the same schemas and the same tokens; XGrammar writes compact JSON too. Prints, for each
schema, compiling and the time of one mask: while the first text goes through a fresh grammar, and for the texts after it.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import xgrammar


def quantile(values, share):
    return sorted(values)[int(share * (len(values) - 1))]


def measure(case, info, tokens, rounds):
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    begin = time.perf_counter()
    strict = case["schema"] != {"type": "object"}
    grammar = compiler.compile_json_schema(
        json.dumps(case["schema"]), any_whitespace=False, separators=(",", ":"), strict_mode=strict
    )
    compiled = (time.perf_counter() - begin) * 1e3
    mask = xgrammar.allocate_token_bitmask(1, len(tokens))
    first, kept, refused = [], [], None
    for number in range(rounds + 1):
        matcher = xgrammar.GrammarMatcher(grammar)
        for token in case["ids"]:
            begin = time.perf_counter()
            matcher.fill_next_token_bitmask(mask)
            (first if number == 0 else kept).append((time.perf_counter() - begin) * 1e6)
            if not matcher.accept_token(token):
                refused = tokens[token]
                break
    return compiled, first, kept, refused


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "cases.json"
        done = subprocess.run(
            [arguments.program, "bench", "grammar", "--json", "--dump", path], check=True, capture_output=True, text=True
        )
        ours = {row["case"]: row["value"] for row in json.loads(done.stdout)["rows"]}
        given = json.loads(path.read_text())
    tokens = [bytes.fromhex(token) for token in given["tokens"]]
    info = xgrammar.TokenizerInfo(tokens, vocab_type=xgrammar.VocabType.RAW, vocab_size=len(tokens), stop_token_ids=[0])
    print(f"{'':26} {'compile ms':>20} {'first mean us':>20} {'kept p50 us':>20} {'kept p99 us':>20}   (longshore, xgrammar)")
    all_kept = []
    for case in given["cases"]:
        name = case["name"]
        compiled, first, kept, refused = measure(case, info, tokens, arguments.rounds)
        all_kept += kept
        pairs = [
            (ours[name + ": compile"], compiled),
            (ours[name + ": first, mean"], sum(first) / len(first)),
            (ours[name + ": kept, p50"], quantile(kept, 0.5)),
            (ours[name + ": kept, p99"], quantile(kept, 0.99)),
        ]
        columns = " ".join(f"{mine:9.2f} {theirs:10.2f}" for mine, theirs in pairs)
        print(f"{name:26} {columns}", f"  xgrammar refuses {refused}" if refused else "")
    print(f"{'all':26} {'':41} {ours['all: kept, p50']:9.2f} {quantile(all_kept, 0.5):10.2f}"
          f" {ours['all: kept, p99']:9.2f} {quantile(all_kept, 0.99):10.2f}")


if __name__ == "__main__":
    main()
