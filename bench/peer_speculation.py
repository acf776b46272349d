"""llama.cpp's own speculation on the prompts of `leveret bench speculate`: the part of peers.py that
`--what speculate` runs.

Leveret writes the prompts of a category under its drafters and saves their token ids; llama.cpp then continues
the very same ids under each of its settings, its plain decoding among them, in an order that rotates. A setting
counts by its tokens per second over the category; the best of all is what Leveret is compared with. Settings that
fall far behind in a category are dropped from it after a few texts.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

BENCH = Path(__file__).resolve().parent
# Parts of llama.cpp's sources that its installed libraries do not bring along.
HEADERS = ("common/", "include/", "ggml/include/", "vendor/")
NEEDED_BEFORE_DROPPING = 3  # texts that every setting writes in each category
DROPPED_ABOVE = 1.3  # time of the best so far

PLAIN = {"plain": ["--spec-type", "none"]}
NGRAMS = {
    "ngram-simple": ["--spec-type", "ngram-simple"],
    "ngram-simple 3/8": ["--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "3", "--spec-ngram-simple-size-m", "8"],
    "ngram-simple 5/16": ["--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "5", "--spec-ngram-simple-size-m", "16"],
    "ngram-map-k": ["--spec-type", "ngram-map-k"],
    "ngram-map-k 4/16": ["--spec-type", "ngram-map-k", "--spec-ngram-map-k-size-n", "4", "--spec-ngram-map-k-size-m", "16"],
    "ngram-map-k4v 4/8": ["--spec-type", "ngram-map-k4v", "--spec-ngram-map-k4v-size-n", "4", "--spec-ngram-map-k4v-size-m", "8"],
    "ngram-mod": ["--spec-type", "ngram-mod"],
    "ngram-mod 8/4-16": ["--spec-type", "ngram-mod", "--spec-ngram-mod-n-match", "8", "--spec-ngram-mod-n-min", "4",
                         "--spec-ngram-mod-n-max", "16"],
    "ngram-cache": ["--spec-type", "ngram-cache"],
}
DRAFTS = [(2, 0.0), (4, 0.0), (8, 0.0), (4, 0.6), (8, 0.6), (16, 0.8)]
# How the weights are held; peers.py says what these mean.
WEIGHTS = {"amx": ({}, []), "repacked": ({"DENY_AMX": "1"}, []), "stored": ({"DENY_AMX": "1"}, ["--no-repack"])}


def settings(draft_model):
    """Every setting of llama.cpp that is tried: name -> flags."""
    drafts = {
        f"draft {most}" + (f", p {least}" if least else ""): [
            "--spec-type", "draft-simple", "-md", draft_model, "--spec-draft-n-max", str(most), "--spec-draft-p-min", str(least)]
        for most, least in DRAFTS
    }
    return PLAIN | NGRAMS | (drafts if draft_model else {})


# ---------------------------------------------------------------- set-up


def driver(venv):
    return venv / "bin" / "llama_speculate"


def libraries(venv):
    found = sorted(venv.glob("lib/python*/site-packages/lib"))
    return found[0] if found else venv / "lib"


def set_up(venv, package):
    """Compiles the driver against the libraries of the installed package; seconds, once those are there."""
    lib = libraries(venv)
    if not (lib / "libllama-common.so").exists():
        sys.exit(f"no {lib}/libllama-common.so: the installed package has no llama-common; install it from source")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        subprocess.run([venv / "bin" / "python", "-m", "pip", "download", "-q", "--no-deps", "--no-binary", package.split("==")[0],
                        "-d", folder, package], check=True)
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            wanted = [m for m in tar.getmembers() if m.name.partition("/vendor/llama.cpp/")[2].startswith(HEADERS)]
            tar.extractall(folder, wanted, filter="data")
        (root,) = folder.glob("*/vendor/llama.cpp")
        includes = [f"-I{root / part}" for part in ("common", "include", "ggml/include", "vendor")]
        command = ["nice", "g++", "-O2", "-std=c++17", *includes, str(BENCH / "llama_speculate.cpp"), "-o", str(driver(venv)),
                   f"-L{lib}", "-lllama-common", "-lllama", "-lggml", "-lggml-base"]
        print("compiling the driver of llama.cpp's speculation", flush=True)
        subprocess.run(command, check=True, env=environment(venv))


def environment(venv, **more):
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries(venv)), **more}


# ---------------------------------------------------------------- the child


class Writer:
    """A running driver with one model and all settings."""

    def __init__(self, args, model, weights, flags):
        more, own = WEIGHTS[weights]
        command = [str(driver(args.venv)), "-m", model, "-t", str(args.threads), "-tb", str(args.threads), "-c", str(args.context),
                   "-fa", "on", "--temp", "0", *own]
        for group in flags.values():
            command += ["--", *group]
        self.names = list(flags)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        text=True, env=environment(args.venv, **more))
        self._answer()

    def write(self, name, ids, most):
        line = " ".join(map(str, [self.names.index(name), most, *ids]))
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the llama.cpp child ended early: run its command by hand to see why (or --setup again)")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---------------------------------------------------------------- the comparison


def groups(paths, limit):
    """(file, category) -> lines, `limit` of them spread evenly."""
    found = {}
    for path in map(Path, paths):
        for line in path.read_text().splitlines():
            if line.strip():
                category = json.loads(line).get("category", path.stem)
                found.setdefault((path.name, category), []).append(line)
    spread = lambda lines: [lines[i * len(lines) // limit] for i in range(limit)] if 0 < limit < len(lines) else lines
    return {key: spread(lines) for key, lines in found.items()}


def leveret(args, model, name, lines):
    """Leveret's figures over some prompts: tokens/s by drafter, and the ids of every turn."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / name).write_text("\n".join(lines) + "\n")
        drafters = args.drafters or ",".join(["auto"] + ([f"model:{args.draft}"] if args.draft else []))
        subprocess.run([args.leveret, "bench", "speculate", model, "--threads", str(args.threads), "--context", str(args.context),
                        "--max-tokens", str(args.max_tokens), "--drafters", drafters, "--rounds", str(args.repeat),
                        "--json", folder / "out.json", "--ids", folder / "ids.jsonl", "--prompts", folder / name],
                       check=True, stdout=subprocess.DEVNULL)
        figures = json.loads((folder / "out.json").read_text())
        turns = [json.loads(line)["ids"] for line in (folder / "ids.jsonl").read_text().splitlines()]
    configs = {f"{c['drafter']}": c["tps"] for c in figures["configs"] if c["category"] == "all"}
    speedups = {f"{c['drafter']}": c["speedup"] for c in figures["configs"] if c["category"] == "all"}
    return {"plain": figures["baseline"]["tps"], "drafters": configs, "speedups": speedups}, turns


def llama(args, writer, turns):
    """Tokens/s of llama.cpp's settings over the same turns; dropped settings are left out."""
    totals = {name: [0, 0.0, 0, 0] for name in writer.names}  # tokens, seconds, drafted, accepted
    for at, ids in enumerate(turns):
        names = list(totals)
        for k in range(len(names)):
            name = names[(k + at) % len(names)]
            best = min((writer.write(name, ids, args.max_tokens) for _ in range(args.repeat)), key=lambda text: text["seconds"])
            for i, value in enumerate((len(best["ids"]), best["seconds"], best["drafted"], best["accepted"])):
                totals[name][i] += value
        if at + 1 == NEEDED_BEFORE_DROPPING:
            pace = {name: total[1] / max(total[0], 1) for name, total in totals.items()}
            limit = DROPPED_ABOVE * min(pace.values())
            totals = {name: total for name, total in totals.items() if name == "plain" or pace[name] <= limit}
    return {name: {"tps": tokens / max(seconds, 1e-9), "tokens": tokens, "seconds": seconds, "drafted": drafted, "accepted": accepted}
            for name, (tokens, seconds, drafted, accepted) in totals.items()}


def choose_weights(args, model, turns):
    """How llama.cpp should hold the weights: what is fastest over the first turns, plain and speculating."""
    flags = {name: (PLAIN | NGRAMS)[name] for name in ("plain", "ngram-simple 3/8")}
    available = [name for name in WEIGHTS if name != "amx" or "amx_int8" in Path("/proc/cpuinfo").read_text()]
    seconds = {}
    for weights in available:
        writer = Writer(args, model, weights, flags)
        writer.write("plain", turns[0], 8)  # warms up
        seconds[weights] = sum(writer.write(name, ids, 48)["seconds"] for name in flags for ids in turns[:2])
        writer.close()
    return min(seconds, key=seconds.get), seconds


def section(args, model):
    """Every category: Leveret's drafters beside the best of llama.cpp's settings."""
    if not args.prompts:
        sys.exit("--what speculate needs --prompts FILE…")
    if not driver(args.venv).exists():
        sys.exit(f"no {driver(args.venv)}: run with --setup first")
    writer, result = None, {"categories": {}, "max_tokens": args.max_tokens, "draft": args.draft and Path(args.draft).name}
    for (name, category), lines in groups(args.prompts, args.limit).items():
        ours, turns = leveret(args, model, name, lines)
        if writer is None:
            weights, result["survey"] = choose_weights(args, model, turns)
            result["weights"] = weights
            writer = Writer(args, model, weights, settings(args.draft))
            print(f"  llama.cpp with weights {weights}")
            print(f"  {'category':20}{'leveret':>9}{'its best':>10}{'gain':>7}{'llama.cpp':>11}{'its best':>10}{'gain':>7}{'ratio':>7}   settings")
        peer = llama(args, writer, turns)
        row = compare(ours, peer)
        result["categories"][category if category not in result["categories"] else f"{name}: {category}"] = {
            "prompts": len(lines), "turns": len(turns), "leveret": ours, "llama.cpp": peer, **row}
        show(category, row)
    if writer:
        writer.close()
    result["overall"] = overall(result["categories"])
    show("mean of categories", result["overall"])
    return result


def compare(ours, peer):
    best = max(peer, key=lambda name: peer[name]["tps"])
    drafter = max(ours["drafters"], key=ours["drafters"].get)
    return {"leveret_plain": ours["plain"], "leveret_best": ours["drafters"][drafter], "leveret_drafter": drafter,
            "peer_plain": peer["plain"]["tps"], "peer_best": peer[best]["tps"], "peer_setting": best,
            "ratio": ours["drafters"][drafter] / peer[best]["tps"]}


def overall(categories):
    """Means over categories of the time of a token; each category counts alike."""
    mean = lambda key: len(categories) / sum(1 / row[key] for row in categories.values())
    keys = ("leveret_plain", "leveret_best", "peer_plain", "peer_best")
    row = {key: mean(key) for key in keys}
    return {**row, "leveret_drafter": "", "peer_setting": "its best in each", "ratio": row["leveret_best"] / row["peer_best"]}


def show(category, row):
    print(f"  {category:20}{row['leveret_plain']:>9.1f}{row['leveret_best']:>10.1f}{row['leveret_best'] / row['leveret_plain']:>6.2f}x"
          f"{row['peer_plain']:>11.1f}{row['peer_best']:>10.1f}{row['peer_best'] / row['peer_plain']:>6.2f}x{row['ratio']:>6.2f}x"
          f"   {row['leveret_drafter']} | {row['peer_setting']}", flush=True)
