#!/usr/bin/env python3
"""Writes the measured figures of bench/peers.py and bench/edits.py into the README.

    python3 bench/readme.py --peers peers.json [peers2.json …] [--edits edits.json]
"""
import argparse
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
NAMES = {"smol": "SmolLM2-135M Q4_1", "gem": "Gemma-3-270m Q4_K_M",
         "q05": "Qwen2.5-Coder-0.5B Q4_K_M", "q15": "Qwen2.5-Coder-1.5B Q4_K_M"}


def name(file):
    return NAMES.get(Path(file).stem, Path(file).stem)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", required=True, help="JSON files of bench/peers.py")
    parser.add_argument("--edits", help="JSON file of bench/edits.py")
    args = parser.parse_args()

    lines = ["| model | decode tokens/s | prefill of 512, tokens/s | t(4)/t(1) | t(8)/t(1) |",
             "|---|---|---|---|---|"]
    machine = package = None
    for path in args.peers:
        data = json.loads(Path(path).read_text())
        machine, package = f"{data['machine']}, {data['threads']} threads", data["package"]
        for file, model in data["models"].items():
            figures = model["speed"]["summary"]

            def pair(key):
                f = figures[key]
                return f"{f['leveret']:.0f} against {f['peer']:.0f} ({f['ratio']:.2f}x)"

            def curve(m):
                ours, peer = (figures[f"t({m})"][who] / figures["t(1)"][who] for who in ("leveret", "peer"))
                return f"{ours:.2f} against {peer:.2f}"

            lines.append(f"| {name(file)} | {pair('decode_tps')} | {pair('prefill_tps')} | {curve(4)} | {curve(8)} |")
    text = [f"Leveret against llama.cpp ({package}, the best of its own settings for each figure), same file, in "
            f"turns, medians, on {machine}; t(m) is the time of a pass over m rows:", "", *lines]
    if args.edits:
        edits = json.loads(Path(args.edits).read_text())
        text += ["", f"Speculation on code edits with {name(edits['model'])}: **{edits['speedup']:.2f}x** plain "
                     f"decoding over {edits['prompts']} prompts (median {edits['median']:.2f}x, worst "
                     f"{edits['worst']:.2f}x), no text changed."]
    text += ["", "Rows may be separate runs, each with the build of its day. Made by `bench/peers.py`, `bench/edits.py` and `bench/readme.py`."]
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + BEGIN + "\n" + "\n".join(text) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
