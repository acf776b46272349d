#!/usr/bin/env python3
"""Leveret beside llama.cpp: the same file, the same threads, measured in turns.

    python3 bench/peers.py --setup                  install llama.cpp (its Python package, built for this machine)
    python3 bench/peers.py MODEL.gguf --json F      decode, prefill, t(m), start-up, memory, a busy neighbour
    python3 bench/peers.py MODEL.gguf --peer-only   llama.cpp alone
    python3 bench/peers.py MODEL.gguf --what speculate --prompts FILE… --draft SMALL.gguf --limit 4
                                                    its own speculation, every kind and several settings

llama.cpp runs in child processes that load the model once and answer one request per line, so that the two
engines alternate round by round under the same weather. Its settings (weights repacked for AMX or AVX or as they
lie in the file, flash attention on or off) are surveyed first; those that win any figure run in every round, and
each figure is compared with the best of them. Every round logs how much of the machine other processes used:
above 0.2 cores the figures are worth little. `--realtime` keeps others off the cores while a measurement runs.
"""

import argparse
import ctypes
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import peer_speculation

ROOT = Path(__file__).resolve().parent.parent
PEER_PACKAGE = "llama-cpp-python==0.3.36"  # ships llama.cpp at commit 0c1e57098
# Native flags, so that the peer has every instruction set of this machine; no multimodal library.
PEER_CMAKE = f"-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DCMAKE_CXX_FLAGS='-include {ROOT}/bench/gcc_amx.h'"
# The same as on a processor that has AVX2 and nothing newer.
PEER_CMAKE_AVX2 = ("-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON "
                   "-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF")

# How the peer can hold its weights: repacked for AMX tiles (its default where the processor has them), repacked for
# AVX (its default elsewhere), or as they lie in the mapped file.
CPUINFO = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
WEIGHTS = ["amx", "repacked", "stored"] if "amx_int8" in CPUINFO else ["repacked", "stored"]
SETTINGS = {
    f"{weights}, {'flash' if flash else 'no flash'}": {"weights": weights, "flash": flash}
    for weights in WEIGHTS
    for flash in (True, False)
}
# As `leveret bench speed --quick` does it: behind one token, the first stretch not counted, the median of the others.
DECODE_TOKENS, DECODE_STRETCHES = 24, 2
PREFILL_TOKENS = 512
ROWS = [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32]
CONTEXT = 128  # committed tokens before each measured pass
PASSES = 5  # passes per m and round; their median is the round's figure
PROMPT = "The quick brown fox jumps over the lazy dog and"  # about ten tokens
LONG_PROMPT = "Count: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,"  # continues for as long as it is asked to


# ---------------------------------------------------------------- the peer's side: a child that answers requests


class Peer:
    """One llama.cpp model and context, driven through the C API that the package exposes."""

    def __init__(self, model, threads, weights, flash=True, context=1024):
        import llama_cpp as api

        if weights != "amx":
            deny_amx()
        self.api = api
        self.buffers = []
        self.log = api.llama_log_callback(self._note_buffers)  # kept alive: C holds the pointer
        api.llama_log_set(self.log, ctypes.c_void_p(0))
        api.llama_backend_init()

        params = api.llama_model_default_params()  # its default load mode maps the file
        params.use_extra_bufts = weights != "stored"
        self.model = api.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {model}")

        params = api.llama_context_default_params()  # the KV cache is f16 by default
        params.n_ctx = context
        params.n_batch = params.n_ubatch = PREFILL_TOKENS
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = int(flash)
        self.ctx = api.llama_init_from_model(self.model, params)
        self.memory = api.llama_get_memory(self.ctx)
        self.vocab = api.llama_model_get_vocab(self.model)
        self.vocab_size = api.llama_vocab_n_tokens(self.vocab)
        self.batch = api.llama_batch_init(PREFILL_TOKENS, 0, 1)

    def _note_buffers(self, _level, text, _data):
        found = re.search(rb"(\S+) model buffer size = +([0-9.]+) MiB", text)
        if found:
            self.buffers.append(f"{found[1].decode()} {found[2].decode()} MiB")

    def tokens(self, count, start=0):
        """`count` ordinary token ids, spread over the vocabulary so that embedding rows are not all cached."""
        return [100 + (start + i) * 37 % min(self.vocab_size - 200, 8000) for i in range(count)]

    def tokenize(self, text):
        ids = (self.api.llama_token * 64)()
        data = text.encode()
        return list(ids[: self.api.llama_tokenize(self.vocab, data, len(data), ids, 64, True, True)])

    def forward(self, tokens, position, every_row=False):
        """Evaluates `tokens` from `position` on, with logits of every row or of the last; returns seconds."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = every_row or i == len(tokens) - 1
        start = time.perf_counter()
        if self.api.llama_decode(self.ctx, batch) != 0:
            sys.exit("llama_decode failed")
        self.api.llama_get_logits(self.ctx)  # waits until they are there
        return time.perf_counter() - start

    def forget(self, position=0):
        """Drops the cache from `position` on."""
        if position == 0:
            self.api.llama_memory_clear(self.memory, False)
        else:
            self.api.llama_memory_seq_rm(self.memory, 0, position, -1)

    def decode(self, count=DECODE_TOKENS, stretches=DECODE_STRETCHES):
        """Tokens per second, one token per pass, behind one token (nothing is sampled): the median of some stretches."""
        seconds = []
        for _ in range(stretches + 1):
            self.forget()
            self.forward(self.tokens(1), 0)
            seconds.append(sum(self.forward([token], 1 + i) for i, token in enumerate(self.tokens(count, 1))))
        return count / median(seconds[1:])

    def prefill(self, count=PREFILL_TOKENS):
        self.forget()
        return count / self.forward(self.tokens(count), 0)

    def passes(self, rows=ROWS, repeat=PASSES):
        """Milliseconds of one pass over m rows at CONTEXT, logits of every row, the cache cleared back after each."""
        self.forget()
        self.forward(self.tokens(CONTEXT), 0)
        result = {}
        for m in rows:
            times = []
            for _ in range(repeat + 1):
                times.append(1e3 * self.forward(self.tokens(m, CONTEXT), CONTEXT, every_row=True))
                self.forget(CONTEXT)
            result[str(m)] = median(times[1:])  # the first builds the graph of this shape
        return result

    def first_token(self, prompt):
        import numpy

        self.forward(self.tokenize(prompt), 0)
        logits = self.api.llama_get_logits_ith(self.ctx, -1)
        return int(numpy.ctypeslib.as_array(logits, (self.vocab_size,)).argmax())

    def set_threads(self, threads):
        self.api.llama_set_n_threads(self.ctx, threads, threads)


def deny_amx():
    """Lets llama.cpp find no AMX: the kernel grants tiles only to threads whose signal stack could hold them."""

    class SignalStack(ctypes.Structure):
        _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    deny_amx.stack = ctypes.create_string_buffer(8192)  # enough for AVX-512's registers, 11 KB short of AMX's
    stack = SignalStack(ctypes.addressof(deny_amx.stack), 0, len(deny_amx.stack))
    ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None)


def serve_peer(options):
    """Answers requests, one JSON line each: {"call": method, ...its arguments}."""
    peer = Peer(**options)
    reply({"buffers": peer.buffers, "system": peer.api.llama_print_system_info().decode(), "version": peer.api.__version__})
    for line in sys.stdin:
        request = json.loads(line)
        reply(getattr(peer, request.pop("call"))(**request))


def start_peer(options):
    """From before the load to the first token, the interpreter and its imports left out of the time."""
    prompt = options.pop("prompt")
    import llama_cpp  # noqa: F401
    import numpy  # noqa: F401

    before_mb = peak_mb()
    start = time.perf_counter()
    peer = Peer(**options)
    token = peer.first_token(prompt)
    seconds = time.perf_counter() - start
    reply({"seconds": seconds, "token": token, "peak_mb": peak_mb(), "before_mb": before_mb})


def reply(value):
    print(json.dumps(value), flush=True)


def peak_mb():
    """Peak resident megabytes of this process (VmHWM)."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6


# ---------------------------------------------------------------- our side


class PeerChild:
    """A running `serve_peer`."""

    def __init__(self, python, **options):
        self.process = subprocess.Popen(
            peer_command(python, "serve", options), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )
        self.about = self._answer()

    def call(self, method, **arguments):
        self.process.stdin.write(json.dumps({"call": method, **arguments}) + "\n")
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


class Weather:
    """What other processes did to the machine during a `with` block, in cores (steal counts as others)."""

    def __init__(self, *children):
        self.children = children  # our own running processes

    def __enter__(self):
        self.start = self._read()
        return self

    def __exit__(self, *_):
        busy, own, wall, total, idle = (b - a for a, b in zip(self.start, self._read()))
        self.idle_share = idle / max(total, 1e-9)
        self.others = max(0.0, (busy - own) / max(wall, 1e-9))

    def _read(self):
        tick = os.sysconf("SC_CLK_TCK")
        ticks = [int(field) / tick for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        own = os.times()
        own = own.user + own.system + own.children_user + own.children_system
        for child in self.children:
            fields = Path(f"/proc/{child.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            own += (int(fields[11]) + int(fields[12])) / tick
        return sum(ticks) - idle, own, time.perf_counter(), sum(ticks), idle

    def note(self):
        return {"idle_share": round(self.idle_share, 3), "others_cores": round(self.others, 2)}


def peer_command(python, role, options):
    return [python, str(Path(__file__).resolve()), "--child", role, json.dumps(options)]


def leveret_speed(args, model):
    """One `leveret bench speed`: decode and prefill tokens/s and pass_ms."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "speed.json"
        command = [args.leveret, "bench", "speed", model, "--threads", str(args.threads), "--json", str(report)]
        run(command + shlex.split(args.leveret_args))
        return json.loads(report.read_text())


def leveret_decode(args, model, threads):
    """Tokens/s of plain decoding by `leveret run`."""
    output = run(leveret_run(args, model, LONG_PROMPT, DECODE_TOKENS, threads) + ["--output", "json"])
    return json.loads(output)["tokens_per_second"]


def leveret_run(args, model, prompt, tokens, threads):
    command = f"run --raw --max-tokens {tokens} --temperature 0 --drafter none --threads {threads}"
    return [args.leveret, *command.split(), "--model", model, prompt]


def leveret_start(args, model):
    """Seconds from process start to the first byte of text (or the end, if that one token has none), and peak MB."""
    start = time.perf_counter()
    command = leveret_run(args, model, PROMPT, 1, args.threads)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.read(1)
    seconds = time.perf_counter() - start
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{shlex.join(command)}: exit code {process.returncode}")
    return {"seconds": seconds, "peak_mb": usage.ru_maxrss * 1024 / 1e6}


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


# ---------------------------------------------------------------- sections


def section_speed(args, model):
    """Decode, prefill and t(m) in alternating rounds."""
    peers = {name: PeerChild(args.python, model=model, threads=args.threads, **setting) for name, setting in SETTINGS.items()}
    about = {name: peer.about for name, peer in peers.items()}
    print_about(about)

    survey = {name: peer_speed(peer, repeat=1) for name, peer in peers.items()}
    best = {best_setting({name: figures[key] for name, figures in survey.items()}, key) for key in flat_keys(survey)}
    for name in [name for name in peers if name not in best]:
        peers.pop(name).close()
    print(f"  settings that win a figure, measured below: {'; '.join(peers)}", flush=True)

    rounds = []
    for index in range(args.rounds):
        entry = {}
        # First in one round and last in the next.
        order = ["leveret"] * (not args.peer_only) + list(peers)
        for name in order if index % 2 == 0 else reversed(order):
            if name == "leveret":
                with Weather() as weather:
                    entry[name] = flat(leveret_speed(args, model))
                entry[name] |= weather.note()
            else:
                entry[name] = peer_speed(peers[name])
        rounds.append(entry)
        others = max(figures["others_cores"] for figures in entry.values())
        idle = min(figures["idle_share"] for figures in entry.values())
        print(f"  round {index + 1}: others used up to {others} cores, idle share {idle:.0%} and more", flush=True)
    for peer in peers.values():
        peer.close()
    summary = summarise_speed(rounds, list(peers))
    print_speed(summary, list(peers))
    return {"peer": about, "survey": survey, "rounds": rounds, "summary": summary}


def peer_speed(peer, decode=DECODE_TOKENS, repeat=PASSES):
    with Weather(peer) as weather:
        figures = flat({
            "decode_tps": peer.call("decode", count=decode),
            "prefill_tps": peer.call("prefill"),
            "pass_ms": peer.call("passes", repeat=repeat),
        })
    return figures | weather.note()


def flat(report):
    """decode_tps, prefill_tps and one t(m) key per m."""
    return {
        "decode_tps": report["decode_tps"],
        "prefill_tps": report["prefill_tps"],
        **{f"t({m})": report["pass_ms"][str(m)] for m in ROWS if str(m) in report["pass_ms"]},
    }


def flat_keys(entry):
    """The figures that one round's entry compares."""
    return [key for key in next(iter(entry.values())) if key.endswith("tps") or key.startswith("t(")]


def best_setting(values, key):
    """The name whose value is best: the highest tokens/s, the lowest time."""
    return (max if key.endswith("tps") else min)(values, key=values.get)


def summarise_speed(rounds, names):
    """Per figure: medians, the peer's best setting, and the median of the ratios of pairs (above 1: Leveret is faster)."""
    summary = {}
    for key in flat_keys(rounds[0]):
        medians = {name: median(r[name][key] for r in rounds) for name in names}
        best = best_setting(medians, key)
        theirs = [r[best][key] for r in rounds]
        higher = key.endswith("tps")
        row = {"peer": medians[best], "peer_setting": best, "peer_best": (max if higher else min)(theirs), "peer_all": medians}
        if key in rounds[0].get("leveret", {}):
            ours = [r["leveret"][key] for r in rounds]
            row["leveret"] = median(ours)
            row["ratio"] = median(a / b if higher else b / a for a, b in zip(ours, theirs))
        summary[key] = row
    return summary


def print_about(about):
    first = next(iter(about.values()))
    print(f"  llama-cpp-python {first['version']}; {first['system'].strip()}")
    for name, one in about.items():
        print(f"  {name:20} weights in {', '.join(one['buffers'])}")


def print_speed(summary, names):
    print("  medians; its best: of any round; ratio: above 1 where Leveret is faster; tokens/s and milliseconds")
    print(f"  {'':12}{'leveret':>9}{'llama.cpp':>11}{'its best':>10}{'ratio':>7}{'t(m)/t(1)':>13}   its setting (of {' | '.join(names)})")
    for key, row in summary.items():
        ours, ratio = row.get("leveret"), row.get("ratio")
        relative = ""
        if key.startswith("t("):
            relative = f"{row['peer'] / summary['t(1)']['peer']:.2f}"
            relative = f"{ours / summary['t(1)']['leveret']:.2f} / {relative}" if ours else relative
        settings = row["peer_setting"] + "  (" + " | ".join(number(value) for value in row["peer_all"].values()) + ")"
        print(f"  {key:12}{number(ours):>9}{number(row['peer']):>11}{number(row['peer_best']):>10}"
              f"{number(ratio):>7}{relative:>13}   {settings}")


def section_start(args, model):
    """Whole processes: time to the first token of a ten-token prompt, file in the page cache, and peak memory."""
    with open(model, "rb") as file:  # into the page cache
        while file.read(1 << 24):
            pass
    rounds = []
    for _ in range(args.rounds):
        entry = {}
        if not args.peer_only:
            with Weather() as weather:
                entry["leveret"] = leveret_start(args, model)
            entry["leveret"] |= weather.note()
        for weights in WEIGHTS:
            options = {"model": model, "threads": args.threads, "weights": weights, "context": 512, "prompt": PROMPT}
            with Weather() as weather:
                entry[weights] = json.loads(run(peer_command(args.python, "start", options)))
            entry[weights] |= weather.note()
        rounds.append(entry)
    print("  leveret: the whole process, start to first text. llama.cpp: inside its process, from before the load to the")
    print("  first token's id; Python's start and imports do not count, and its memory before the load is shown apart.")
    print("  (context of 512 for llama.cpp, which makes its cache as small as it can be)")
    for name in rounds[0]:
        print(f"  {name:20} start {number(median(r[name]['seconds'] for r in rounds))} s"
              f" (best {number(min(r[name]['seconds'] for r in rounds))}),"
              f" peak {median(r[name]['peak_mb'] for r in rounds):.0f} MB"
              + (f" of which Python {rounds[0][name]['before_mb']:.0f}" if "before_mb" in rounds[0][name] else ""))
    if not args.peer_only:
        fastest = min(WEIGHTS, key=lambda name: median(r[name]["seconds"] for r in rounds))
        ratio = median(r["leveret"]["seconds"] / r[fastest]["seconds"] for r in rounds)
        print(f"  leveret's start is {ratio:.2f} times llama.cpp's ({fastest})")
    return rounds


def section_busy(args, model):
    """Decoding on 1 and on 2 threads while another process keeps one core busy."""
    core = sorted(os.sched_getaffinity(0))[0]
    # It ends with us, however we end.
    busy_loop = (f"import os\nos.sched_setaffinity(0, [{core}])\n"
                 f"while os.getppid() == {os.getpid()}:\n    for _ in range(1000000): pass")
    priority(realtime=False)  # a neighbour only disturbs an equal
    peer = PeerChild(args.python, model=model, threads=1, weights=WEIGHTS[0])
    neighbour = subprocess.Popen([sys.executable, "-c", busy_loop])
    rounds = []
    try:
        for _ in range(args.rounds):
            entry = {}
            with Weather(peer) as weather:
                for threads in (1, 2):
                    if not args.peer_only:
                        entry[f"leveret {threads}"] = leveret_decode(args, model, threads)
                    peer.call("set_threads", threads=threads)
                    entry[f"llama.cpp {threads}"] = peer.call("decode", count=16, stretches=1)  # on 2 its barriers may take seconds
            rounds.append(entry | weather.note())
    finally:
        neighbour.kill()
        neighbour.wait()
    peer.close()
    priority(args.realtime)
    print(f"  core {core} kept busy; others (the neighbour included) used {median(r['others_cores'] for r in rounds)} cores")
    for engine in ["llama.cpp"] if args.peer_only else ["leveret", "llama.cpp"]:
        one, two = (median(r[f"{engine} {threads}"] for r in rounds) for threads in (1, 2))
        ratio = median(r[f"{engine} 2"] / r[f"{engine} 1"] for r in rounds)
        print(f"  {engine:10} {number(one)} tok/s on 1 thread, {number(two)} on 2: ratio {ratio:.2f}")
    return rounds


def priority(realtime):
    """Whether this process and its future children run ahead of every ordinary process (needs the right to)."""
    policy, level = (os.SCHED_RR, 20) if realtime else (os.SCHED_OTHER, 0)
    if os.sched_getscheduler(0) != policy:
        os.sched_setscheduler(0, policy, os.sched_param(level))


SECTIONS = {"speed": section_speed, "start": section_start, "busy": section_busy, "speculate": peer_speculation.section}


def number(value):
    return "" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


# ---------------------------------------------------------------- command line


def set_up(venv, avx2=False):
    """A virtual environment with the peer's package, built from source for this machine, or for its AVX2 alone."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    environment = {**os.environ, "CMAKE_ARGS": PEER_CMAKE_AVX2 if avx2 else PEER_CMAKE}
    command = [str(python), "-m", "pip", "install", "--no-cache-dir", "--no-binary", "llama-cpp-python", PEER_PACKAGE]
    installed = subprocess.run([str(python), "-m", "pip", "freeze"], capture_output=True, text=True).stdout
    if PEER_PACKAGE not in installed.replace("_", "-").split():
        print("building llama.cpp from its Python package; this takes minutes", flush=True)
        subprocess.run(command, env=environment, check=True)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="GGUF file")
    parser.add_argument("--setup", action="store_true", help="install llama.cpp into the virtual environment, then go on")
    parser.add_argument("--what", default="speed,start", help="sections, of speed, start, busy, speculate (default: %(default)s)")
    parser.add_argument("--busy", action="store_true", help="the same as adding busy to --what")
    parser.add_argument("--threads", type=int, default=2, help="threads of both engines (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; figures are their medians (default: %(default)s)")
    parser.add_argument("--realtime", action="store_true", help="run ahead of other processes (needs root; not in busy)")
    parser.add_argument("--json", metavar="F", help="write every round and the summary there")
    parser.add_argument("--peer-only", action="store_true", help="measure llama.cpp alone")
    parser.add_argument("--leveret", default=str(ROOT / "target/release/leveret"), help="binary (default: the release build)")
    parser.add_argument("--leveret-args", default=f"--quick --contexts {CONTEXT}", metavar="ARGS",
                        help="further arguments of `leveret bench speed` (default: %(default)s)")
    parser.add_argument("--avx2", action="store_true", help="as on a processor that has AVX2 and nothing newer: both engines use no more")
    parser.add_argument("--venv", type=Path, help="llama.cpp's environment (default: target/peers-venv, with --avx2 peers-venv-avx2)")
    speculate = parser.add_argument_group("speculate")
    speculate.add_argument("--prompts", nargs="+", metavar="FILE", help="prompts, as leveret bench speculate reads them")
    speculate.add_argument("--draft", metavar="GGUF", help="draft model, for both engines")
    speculate.add_argument("--drafters", metavar="A,…", help="Leveret's drafters (default: auto, and the draft model if there is one)")
    speculate.add_argument("--limit", type=int, default=0, help="prompts of each category; 0 is all")
    speculate.add_argument("--max-tokens", type=int, default=128, help="tokens of each turn (default: %(default)s)")
    speculate.add_argument("--context", type=int, default=4096, help="tokens of prompt and output (default: %(default)s)")
    speculate.add_argument("--repeat", type=int, default=1, help="times that each text is written; the fastest counts (default: %(default)s)")
    args = parser.parse_args(arguments)
    args.sections = args.what.split(",") + ["busy"] * (args.busy and "busy" not in args.what)
    unknown = [name for name in args.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"--what: no section {unknown[0]}; there are {', '.join(SECTIONS)}")
    if not args.models and not args.setup:
        parser.error("name a GGUF file (or --setup)")
    args.venv = args.venv or ROOT / ("target/peers-venv-avx2" if args.avx2 else "target/peers-venv")
    args.python = str(args.venv / "bin" / "python")
    return args


def main():
    if sys.argv[1:2] == ["--child"]:
        role, options = sys.argv[2], json.loads(sys.argv[3])
        return {"serve": serve_peer, "start": start_peer}[role](options)
    args = parse(sys.argv[1:])
    if args.setup:
        set_up(args.venv, args.avx2)
        peer_speculation.set_up(args.venv, PEER_PACKAGE)
    if args.models and not Path(args.python).exists():
        sys.exit(f"no {args.python}: run with --setup first")
    if args.models and not args.peer_only and not Path(args.leveret).exists():
        sys.exit(f"no {args.leveret}: build it with `cargo build --release`, or name another --leveret")
    priority(args.realtime)
    if args.avx2:
        os.environ["LEVERET_ISA"] = "avx2"
    report = {
        "machine": f"{platform.machine()}, {cpu_name()}, {os.cpu_count()} cores" + (", AVX2 alone" if args.avx2 else ""),
        "threads": args.threads,
        "package": PEER_PACKAGE,
        "models": {},
    }
    if args.models:
        print(f"{report['machine']}; {args.threads} threads; {PEER_PACKAGE}; medians of {args.rounds}, in turns")
    for model in args.models:
        print(f"{Path(model).name}", flush=True)
        report["models"][Path(model).name] = {name: SECTIONS[name](args, model) for name in args.sections}
        if args.json:
            Path(args.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


def cpu_name():
    found = re.search(r"model name\s*: (.*)", CPUINFO)
    return found[1] if found else "unknown processor"


if __name__ == "__main__":
    sys.exit(main())
