#!/usr/bin/env python3
"""What `leveret convert` writes, read by llama.cpp: the same tokens, and the same next-token scores.

    python3 bench/convert_check.py GOLDENS [MODEL …] --venv DIR     DIR has llama.cpp's Python package
    python3 bench/convert_check.py GOLDENS --setup                  install it first, as bench/peers.py does

GOLDENS is a folder of small checkpoints, each in NAME/target; MODEL is a folder, a file, or what else `leveret
convert` takes. Each is written as GGUF with weights of 32 bits, for llama.cpp rounds what it multiplies with weights
of 16. Leveret continues a text greedily; llama.cpp, which runs in a child process because it may end it, reads the
same tokens from the same file. A line for each says how far the probabilities of the likeliest tokens lie apart, and
how often the likeliest token is another one. Where a recorded reference is at hand, llama.cpp must continue its
prompts as recorded. What `leveret convert` says that llama.cpp computes otherwise does not count as an error.
Drafters have no scores of their own to compare: they are loaded as llama.cpp loads them, after their model.
"""

import argparse
import ctypes
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import ROOT, set_up

TEXT = "the cat in the hat and 12 dogs"
TOKENS = 24
TOP = 20
# Float arithmetic on both sides. Of models whose recurrences are summed in chunks, too.
ALLOWED = 2e-3


# ------------------------------------------------------------------------------------ llama.cpp, in a child process


def refused(lines):
    """The reason for a refusal in what llama.cpp has logged: the first line that says so."""
    said = [line.strip() for line in lines if "error" in line or "unknown model architecture" in line]
    return (said or ["llama.cpp refuses it"])[0].split("error loading model: ")[-1]


class Library:
    """llama.cpp by way of its Python package, its log kept."""

    def __init__(self):
        import llama_cpp

        self.api, self.lines = llama_cpp, []
        self.log = llama_cpp.llama_log_callback(lambda _level, text, _data: self.lines.append(text.decode(errors="replace")))
        llama_cpp.llama_log_set(self.log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()

    def load(self, path):
        params = self.api.llama_model_default_params()
        params.use_extra_bufts = False
        return self.api.llama_model_load_from_file(path.encode(), params)

    def scores(self, path, text, continuation, prompts):
        """Token ids of the text, the log-probabilities of every token after it and each of the continuation, and
        the likeliest token in those places of the recorded texts that their continuation begins at."""
        api, model = self.api, self.load(path)
        if not model:
            return {"refused": refused(self.lines)}
        vocab = api.llama_model_get_vocab(model)
        ids = (api.llama_token * 512)()
        data = text.encode()
        count = api.llama_tokenize(vocab, data, len(data), ids, len(ids), True, True)
        prompt = list(ids[:count])
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.flash_attn_type = 0
        # Caches of 32 bits.
        params.type_k = params.type_v = 0
        context = api.llama_init_from_model(model, params)
        if not context:
            return {"refused": refused(self.lines)}
        size = api.llama_vocab_n_tokens(vocab)

        def read(prompt, continuation):
            """Logits of the last token of the prompt and all but the last of the continuation."""
            tokens = prompt + continuation
            batch = api.llama_batch_init(len(tokens), 0, 1)
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
                batch.logits[i] = True
            api.llama_memory_clear(api.llama_get_memory(context), True)
            if api.llama_decode(context, batch) != 0:
                sys.exit("llama_decode failed")
            places = range(len(prompt) - 1, len(tokens) - 1)
            return [api.llama_get_logits_ith(context, i)[:size] for i in places]

        rows = []
        for logits in read(prompt, continuation):
            most = max(logits)
            total = most + math.log(sum(math.exp(x - most) for x in logits))
            rows.append([x - total for x in logits])
        best = [[max(range(size), key=logits.__getitem__) for logits in read(*texts)] for texts in prompts]
        return {"prompt": prompt, "rows": rows, "best": best}

    def drafter(self, path, target):
        """Whether a drafter and its target load."""
        api = self.api
        models = [self.load(target)]
        if not models[0]:
            return {"refused": "its target: " + refused(self.lines)}
        models.append(self.load(path))
        return {"loaded": True} if models[1] else {"refused": refused(self.lines)}


def child():
    request = json.loads(sys.stdin.readline())
    library = Library()
    if "target" in request:
        answer = library.drafter(request["path"], request["target"])
    else:
        answer = library.scores(request["path"], request["text"], request["continuation"], request["prompts"])
    print("\n" + json.dumps(answer))


# ------------------------------------------------------------------------------------------------ the comparison


class Check:
    def __init__(self, leveret, python, room):
        self.leveret, self.python, self.room, self.wrong = leveret, python, room, 0

    def say(self, name, verdict, wrong=False):
        self.wrong += wrong
        print(f"{name:<42} {verdict}", flush=True)

    def run(self, *args):
        """What the program writes, and what it says besides."""
        done = subprocess.run([self.leveret, *map(str, args)], capture_output=True, text=True)
        said = done.stderr.strip().splitlines()
        if done.returncode:
            raise RuntimeError((said or ["no message"])[-1].removeprefix("error: "))
        return done.stdout, [line for line in said if "llama.cpp" in line]

    def peer(self, **request):
        command = [self.python, __file__, "--child"]
        done = subprocess.run(command, input=json.dumps(request) + "\n", capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"refused": f"llama.cpp ended ({done.returncode}): {last}"}
        return json.loads(done.stdout.strip().splitlines()[-1])

    def model(self, name, source, prompts=()):
        """Converts a model and compares; returns the file, or None. `prompts` are recorded texts, each a prompt and
        its greedy continuation."""
        file = self.room / (name.replace("/", "-") + ".gguf")
        try:
            _, notes = self.run("convert", source, file, "--type", "f32")
            ours, _ = self.run("run", "-m", file, "--raw", TEXT, "-n", TOKENS, "-t", 0, "--kv", "f32", "--drafter", "none",
                               "--output", "json", "--logprobs", TOP)
        except RuntimeError as error:
            return self.say(name, f"not written: {error}")
        ours = json.loads(ours)
        theirs = self.peer(path=str(file), text=TEXT, continuation=ours["ids"], prompts=list(prompts))
        if "refused" in theirs:
            self.say(name, f"not read by this llama.cpp: {theirs['refused']}")
            return file
        count = len(theirs["prompt"])
        if ours["prompt_ids"] != theirs["prompt"]:
            self.say(name, f"DIFFERS: the text is {ours['prompt_ids']} here, {theirs['prompt']} there", wrong=True)
            return file
        worst, other = 0.0, 0
        for step, row in zip(ours["logprobs"], theirs["rows"]):
            worst = max(worst, *(abs(math.exp(p) - math.exp(row[token])) for token, p in step["top"]))
            other += max(range(len(row)), key=row.__getitem__) != step["token"]
        recorded = sum(best != continuation for best, (_, continuation) in zip(theirs["best"], prompts))
        wrong = worst > ALLOWED or other > 0 or recorded > 0
        verdict = ("differs, as told" if notes else "DIFFERS") if wrong else "agrees"
        told = f"; {notes[0]}" if wrong and notes else ""
        texts = f", {len(prompts) - recorded} of {len(prompts)} recorded texts" if prompts else ""
        self.say(name, f"{verdict}: {count} tokens of a text equal, {len(ours['ids']) - other} of {len(ours['ids'])} behind it{texts}, "
                       f"probabilities within {worst:.1e}{told}", wrong and not notes)
        return file

    def drafter(self, name, source, target_source, target_file):
        file = self.room / (name.replace("/", "-") + ".gguf")
        try:
            _, notes = self.run("convert", source, file, "--target", target_source)
        except RuntimeError as error:
            return self.say(name, f"not written: {error}")
        answer = self.peer(path=str(file), target=str(target_file))
        if "loaded" in answer:
            return self.say(name, "is read")
        told = "not read, as told" if notes else "NOT READ"
        self.say(name, f"{told}: {answer['refused']}", not notes)


def recorded(case):
    """The recorded texts of a golden case: prompts and their greedy continuations, as llama.cpp computes them."""
    for prompt in json.loads((case / "golden.json").read_text()).get("prompts", []):
        ids = prompt.get("greedy_ids_rope_truncated", prompt.get("greedy_ids"))
        if ids and "prompt_ids" in prompt:
            yield prompt["prompt_ids"], ids


def drafters(case):
    """Drafters of a golden case, and the folder of their target."""
    described = json.loads((case / "golden.json").read_text())
    target = case / described.get("target", "target")
    for path in sorted(case.glob("drafter*")) + sorted(case.glob("assistant")):
        yield path, target.resolve()


def main():
    if "--child" in sys.argv:
        return child()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("goldens", type=Path, help="folder of small checkpoints")
    parser.add_argument("models", nargs="*", help="further models")
    parser.add_argument("--leveret", default=str(ROOT / "target/release/leveret"), help="program to check (default: %(default)s)")
    parser.add_argument("--venv", type=Path, default=ROOT / "target/peers-venv", help="llama.cpp's environment (default: %(default)s)")
    parser.add_argument("--setup", action="store_true", help="install llama.cpp into the virtual environment first")
    args = parser.parse_args()
    if args.setup:
        set_up(args.venv)
    python = args.venv / "bin" / "python"
    if not python.exists():
        parser.error(f"no llama.cpp in {args.venv}: run with --setup, or name another --venv")
    version = subprocess.run([python, "-c", "import llama_cpp; print(llama_cpp.__version__)"],
                             capture_output=True, text=True).stdout.strip()
    print(f"llama-cpp-python {version}; {TOKENS} tokens behind {TEXT!r}")
    with tempfile.TemporaryDirectory() as room:
        check, files = Check(args.leveret, str(python), Path(room)), {}
        cases = sorted(path.parent for path in args.goldens.glob("*/golden.json"))
        for case in cases:
            for source in sorted(case.glob("target*")):
                name = f"{case.name}/{source.name}"
                files[source.resolve()] = check.model(name, source, list(recorded(case)))
        for case in cases:
            for source, target in drafters(case):
                if files.get(target):
                    check.drafter(f"{case.name}/{source.name}", source, target, files[target])
        for model in args.models:
            check.model(Path(model).name, model)
    sys.exit(1 if check.wrong else 0)


if __name__ == "__main__":
    main()
