#!/usr/bin/env python3
"""Speculation against plain decoding of the same engine, prompt by prompt, in turns.

    python3 bench/edits.py MODEL PROMPTS.jsonl [--limit 8] [--max-tokens 200] [--json F]

Each prompt is written with `--drafter none` and `--drafter auto`; the ids must be equal, else the
script fails. The figure is the decoding time of the whole set, plain over speculative.
"""
import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def prompts(path, limit):
    lines = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
    texts = [line["turns"][0] if "turns" in line else line["prompt"] for line in lines]
    limit = min(limit or len(texts), len(texts))
    return [texts[i * len(texts) // limit] for i in range(limit)]


def write(args, prompt, drafter):
    command = [args.leveret, "run", "--model", args.model, "--max-tokens", str(args.max_tokens),
               "--drafter", drafter, "--output", "json", "--prompt-file", "/dev/stdin"]
    if args.threads:
        command += ["--threads", str(args.threads)]
    done = subprocess.run(command, input=prompt, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"leveret failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("--limit", type=int, default=0, help="prompts, spread over the file; 0 is all")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--leveret", default=str(ROOT / "target/release/leveret"))
    args = parser.parse_args()

    rows = []
    for i, prompt in enumerate(prompts(args.prompts, args.limit)):
        order = ["none", "auto"] if i % 2 == 0 else ["auto", "none"]
        out = {drafter: write(args, prompt, drafter) for drafter in order}
        plain, fast = out["none"], out["auto"]
        if plain["ids"] != fast["ids"]:
            sys.exit(f"prompt {i}: the texts differ")
        row = {"tokens": len(plain["ids"]), "plain": plain["decode_seconds"], "speculative": fast["decode_seconds"],
               "rounds": fast["rounds"], "drafted": fast["drafted"], "accepted": fast["accepted"]}
        rows.append(row)
        ratio = row["plain"] / max(row["speculative"], 1e-9)
        print(f"prompt {i}: {row['tokens']} tokens, {ratio:.2f}x, "
              f"{row['accepted']} of {row['drafted']} drafts accepted in {row['rounds']} rounds", flush=True)

    total = {key: sum(row[key] for row in rows) for key in rows[0]}
    ratios = [row["plain"] / max(row["speculative"], 1e-9) for row in rows]
    result = {"model": Path(args.model).name, "prompts": len(rows), "speedup": total["plain"] / total["speculative"],
              "median": statistics.median(ratios), "worst": min(ratios), "texts_equal": True, **total}
    print(f"all: {result['speedup']:.2f}x over {len(rows)} prompts (median {result['median']:.2f}, "
          f"worst {result['worst']:.2f}); {total['tokens'] / total['plain']:.1f} against "
          f"{total['tokens'] / total['speculative']:.1f} tokens/s; no text changed")
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
