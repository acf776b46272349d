#!/usr/bin/env python3
"""Writes the measured figures of bench/peers.py and `leveret bench speculate` into the README.

    python3 bench/readme.py --peers peers.json [peers2.json …] [--speculate report.json …]

Of a model that several files measured, the last counts.
"""
import argparse
import json
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
NAMES = {"smol": "SmolLM2-135M Q4_1", "gem": "Gemma-3-270m Q4_K_M",
         "q05": "Qwen2.5-Coder-0.5B Q4_K_M", "q15": "Qwen2.5-Coder-1.5B Q4_K_M",
         "smollm2-135m-instruct": "SmolLM2-135M Q4_1", "gemma-3-270m": "Gemma-3-270m Q4_K_M",
         "qwen2.5-coder-0.5b-instruct": "Qwen2.5-Coder-0.5B Q4_K_M",
         "qwen2.5-coder-1.5b-instruct": "Qwen2.5-Coder-1.5B Q4_K_M"}
TITLES = {"all": "all prompts", "code_edit": "code edits", "human_eval": "HumanEval", "spec_bench": "Spec-Bench",
          "adversarial": "nonsense (random words, base64)"}


def name(file):
    stem = Path(file).name.removesuffix(".gguf")
    return NAMES.get(stem, stem)


def speculation(path):
    """Lines of a table: speed-ups of a report by category, and the prompt that fared worst."""
    report = json.loads(Path(path).read_text())
    configs = report["configs"]
    ways = {(c["control"], c["accept"], c["temperature"]) for c in configs}
    if len(ways) > 1:
        sys.exit(f"{path}: has {len(ways)} settings of control, accept and temperature; a table holds one (no --sweep)")
    drafters = list(dict.fromkeys(c["drafter"] for c in configs))
    titles = ["with a draft model" if d.startswith("auto+model:") and len(drafters) == 2 else d for d in drafters]
    lines = [f"{name(report['model'])}, times of plain decoding ({report['baseline']['tps']:.1f} tokens/s), with the 95% "
             "interval over prompts, and the time of the slowest prompt (of those with 100 tokens and more, if any have) in "
             "times of its plain decoding:", "",
             "| prompts | " + " | ".join(titles) + " |", "|---|" + "---|" * len(drafters)]
    for category in dict.fromkeys(c["category"] for c in configs):
        rows = {c["drafter"]: c for c in configs if c["category"] == category}
        count = rows[drafters[0]]["prompts"]
        # An interval of one or two prompts says nothing.
        interval = lambda c: f" ({c['speedup_ci'][0]:.2f} to {c['speedup_ci'][1]:.2f})" if count > 2 else ""
        cells = [f"{c['speedup']:.2f}x{interval(c)}, slowest {c['worst_prompt_ratio']:.2f}" for c in (rows[d] for d in drafters)]
        lines.append(f"| {TITLES.get(category, category.replace('_', ' '))} ({count}) | " + " | ".join(cells) + " |")
    if not all(c["texts_equal"] for c in configs):
        lines += ["", "Some texts differ: that is a bug."]
    return [*lines, ""]


def speed_row(title, speed):
    """A row of the table: decode, prefill and two passes beside llama.cpp's."""
    def pair(key):
        f = speed["summary"][key]
        return f"{f['leveret']:.0f} against {f['peer']:.0f} ({f['ratio']:.2f}x)"

    cells = [pair(key) for key in ("decode_tps", "prefill_tps", "t(4)", "t(8)")]
    return f"| {title} ({len(speed['rounds'])}) | " + " | ".join(cells) + " |"


def other_lines(title, model):
    """What whole processes, a busy neighbour and llama.cpp's own speculation have shown, a line each."""
    lines = []
    if rounds := model.get("start"):
        weights = [key for key in rounds[0] if key != "leveret"]
        middle = lambda key, of: median(r[key][of] for r in rounds)
        fastest = min(weights, key=lambda key: middle(key, "seconds"))
        ratio = median(r["leveret"]["seconds"] / r[fastest]["seconds"] for r in rounds)
        lines.append(f"- {title} ({len(rounds)}), from the start of the process to the first token: {middle('leveret', 'seconds'):.2f} s "
                     f"against {middle(fastest, 'seconds'):.2f} ({ratio:.2f} of its time); peak memory {middle('leveret', 'peak_mb'):.0f} MB "
                     f"against {middle(fastest, 'peak_mb'):.0f}.")
    if rounds := model.get("busy"):
        of = lambda engine: median(r[f"{engine} 2"] / r[f"{engine} 1"] for r in rounds)
        lines.append(f"- {title} ({len(rounds)}), with another process on one of the two cores: decoding on 2 threads is "
                     f"{of('leveret'):.2f} times as fast as on 1; llama.cpp's {of('llama.cpp'):.2f}.")
    for category, row in model.get("speculate", {}).get("categories", {}).items():
        lines.append(f"- {title}, {TITLES.get(category, category.replace('_', ' '))} ({row['prompts']}), each engine's speculation at its "
                     f"best: {row['leveret_best']:.0f} tokens/s ({row['leveret_drafter']}) against {row['peer_best']:.0f} "
                     f"({row['peer_setting']}), {row['ratio']:.2f}x; without, {row['leveret_plain']:.0f} against {row['peer_plain']:.0f}.")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", required=True, help="JSON files of bench/peers.py")
    parser.add_argument("--speculate", nargs="+", default=[], help="JSON files of `leveret bench speculate`")
    args = parser.parse_args()

    package, tables, besides = None, {}, {}  # rows by machine, then by model
    for path in args.peers:
        data = json.loads(Path(path).read_text())
        package = data["package"]
        machine = f"{data['machine']}, {data['threads']} threads"
        for file, model in data["models"].items():
            if name(file) not in NAMES.values():
                sys.exit(f"{path}: {file} has no name in NAMES")
            if "speed" in model:
                tables.setdefault(machine, {})[name(file)] = speed_row(name(file), model["speed"])
            besides.setdefault(machine, []).extend(other_lines(name(file), model))
    text = [f"Leveret against llama.cpp ({package}, the best of its own settings for each figure), same file, in "
            "turns, medians of as many rounds as stand behind the name; t(m) is the time of a pass over m rows; ratios above 1 where "
            "Leveret is faster.", ""]
    for machine, rows in tables.items():
        text += [f"{machine}:", "",
                 "| model | decode tokens/s | prefill of 512, tokens/s | t(4), ms | t(8), ms |", "|---|---|---|---|---|",
                 *(rows[known] for known in dict.fromkeys(NAMES.values()) if known in rows), "",
                 *besides.pop(machine, []), ""]
    text += ["Rows are separate runs, on virtual machines whose hosts are busy at times: compare within a row only.", ""]
    for path in args.speculate:
        text += speculation(path)
    text += ["Made by `bench/peers.py`, `leveret bench speculate` and `bench/readme.py`; the reports are in `docs/bench`."]
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + BEGIN + "\n" + "\n".join(text) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
