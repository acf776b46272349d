// llama.cpp's own speculation as a child process of peers.py: loads its models once, then writes
// texts of given token ids under given settings, one request a line.
//
//   llama_speculate FLAGS… [-- FLAGS…]…       the first flags hold for all, each further group is a setting
//   request:  SETTING MAX_TOKENS ID ID …      settings count from 0
//   answer:   {"ids": […], "seconds": …, "drafted": …, "accepted": …, "rounds": …}
//
// Flags are llama.cpp's. Only its library is used: drafts, verification and sampling are all its own.

#include "arg.h"
#include "common.h"
#include "llama.h"
#include "log.h"
#include "sampling.h"
#include "speculative.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace {

// Lets llama.cpp find no AMX: the kernel grants tiles only to threads whose signal stack could hold them.
void deny_amx() {
    static char memory[8192];
    stack_t stack = {};
    stack.ss_sp   = memory;
    stack.ss_size = sizeof(memory);
    sigaltstack(&stack, nullptr);
}

struct Answer {
    llama_tokens ids;
    double seconds  = 0;
    size_t drafted  = 0;
    size_t accepted = 0;
    size_t rounds   = 0;
};

[[noreturn]] void fail(const std::string & what) {
    fprintf(stderr, "llama_speculate: %s\n", what.c_str());
    exit(1);
}

void run_pass(llama_context * target, common_speculative * spec, common_batch & rows) {
    if (llama_process(target, LLAMA_PROCESS_TYPE_DECODE, rows.get()) != 0) {
        fail("a pass failed");
    }
    if (spec && !common_speculative_process(spec, rows)) {
        fail("the drafter failed");
    }
}

void forget_from(llama_context * context, int position) {
    if (context) {
        llama_memory_seq_rm(llama_get_memory(context), 0, position, -1);
    }
}

// Writes up to `most` tokens after `prompt`. The clock starts when all of the prompt but its last token is read.
Answer write(llama_context * target, llama_context * draft_context, common_params & params, const llama_tokens & prompt, size_t most) {
    const llama_model * model = llama_get_model(target);
    const llama_vocab * vocab = llama_model_get_vocab(model);
    llama_memory_clear(llama_get_memory(target), true);
    if (draft_context) {
        llama_memory_clear(llama_get_memory(draft_context), true);
    }
    const auto & types = params.speculative.types;
    const bool plain   = std::all_of(types.begin(), types.end(), [](auto type) { return type == COMMON_SPECULATIVE_TYPE_NONE; });
    common_speculative_ptr spec(plain ? nullptr : common_speculative_init(params.speculative, 1));
    if (!plain && !spec) {
        fail("this speculation cannot be set up");
    }
    common_sampler_ptr sampler(common_sampler_init(model, params.sampling));

    // What is in the caches, and the token after it.
    llama_tokens read(prompt.begin(), prompt.end() - 1);
    llama_token last = prompt.back();
    common_batch rows(target);
    const size_t chunk = llama_n_batch(target);
    for (size_t at = 0; at < read.size(); at += chunk) {
        rows.clear();
        for (size_t i = at; i < std::min(read.size(), at + chunk); ++i) {
            rows.add(read[i], i, 0, false);
        }
        run_pass(target, spec.get(), rows);
    }
    if (spec) {
        common_speculative_begin(spec.get(), 0, read);
    }
    llama_synchronize(target);

    Answer answer;
    const auto start = std::chrono::steady_clock::now();
    for (bool ended = false; !ended; ++answer.rounds) {
        const int position = read.size();
        llama_tokens draft;
        if (spec) {
            const int room = std::min<int>(most - answer.ids.size() - 1, (int) llama_n_ctx(target) - position - 2);
            auto & ask     = common_speculative_get_draft_params(spec.get(), 0);
            ask.drafting   = true;
            ask.n_max      = std::max(room, 0);
            ask.pos0       = position;
            ask.id_last    = last;
            ask.prompt     = &read;
            ask.result     = &draft;
            common_speculative_draft(spec.get());
            // What drafting left in its cache is made anew from the verified rows.
            forget_from(draft_context, position);
        }
        rows.clear();
        rows.add(last, position, 0, true);
        for (size_t i = 0; i < draft.size(); ++i) {
            rows.add(draft[i], position + 1 + i, 0, true);
        }
        run_pass(target, spec.get(), rows);
        const llama_tokens ids = common_sampler_sample_and_accept_n(sampler.get(), target, draft);
        if (spec) {
            common_speculative_accept(spec.get(), 0, ids.size() - 1);
        }
        answer.drafted += draft.size();
        answer.accepted += ids.size() - 1;
        for (llama_token id : ids) {
            read.push_back(last);
            last  = id;
            ended = llama_vocab_is_eog(vocab, id);
            if (!ended) {
                answer.ids.push_back(id);
                ended = answer.ids.size() >= most || read.size() + 2 >= llama_n_ctx(target);
            }
            if (ended) {
                break;
            }
        }
        forget_from(target, read.size());
        forget_from(draft_context, read.size());
    }
    answer.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return answer;
}

void reply(const Answer & answer) {
    std::ostringstream out;
    out << "{\"ids\": [";
    for (size_t i = 0; i < answer.ids.size(); ++i) {
        out << (i ? ", " : "") << answer.ids[i];
    }
    out << "], \"seconds\": " << answer.seconds << ", \"drafted\": " << answer.drafted << ", \"accepted\": " << answer.accepted
        << ", \"rounds\": " << answer.rounds << "}";
    std::cout << out.str() << std::endl;
}

}  // namespace

int main(int argc, char ** argv) {
    if (getenv("DENY_AMX")) {
        deny_amx();
    }
    std::vector<char *> shared(argv, std::find_if(argv, argv + argc, [](char * arg) { return strcmp(arg, "--") == 0; }));
    std::vector<common_params> settings;
    common_init();
    common_log_set_verbosity_thold(-1);
    for (int at = shared.size(); at < argc;) {
        std::vector<char *> flags = shared;
        for (++at; at < argc && strcmp(argv[at], "--") != 0; ++at) {
            flags.push_back(argv[at]);
        }
        common_params params;
        if (!common_params_parse(flags.size(), flags.data(), params, LLAMA_EXAMPLE_SPECULATIVE)) {
            return 1;
        }
        settings.push_back(std::move(params));
    }
    if (settings.empty()) {
        fail("no settings");
    }

    // One target that has room for the longest draft of any setting.
    common_params load = settings[0];
    for (auto & params : settings) {
        const auto limits = common_speculative_get_output_limits(load.n_batch, 1, common_speculative_n_max(&params.speculative));
        load.n_outputs_max         = std::max<int>(load.n_outputs_max, limits.total);
        load.n_outputs_max_per_seq = std::max<int>(load.n_outputs_max_per_seq, limits.per_seq);
    }
    llama_backend_init();
    auto loaded            = common_init_from_params(load);
    llama_context * target = loaded->context();
    if (!target) {
        fail("cannot load the model");
    }
    if (common_context_can_seq_rm(target) == COMMON_CONTEXT_SEQ_RM_TYPE_FULL) {
        fail("caches that cannot be cut are not supported here");
    }
    // One drafter for all settings that have it.
    common_speculative_init_result_ptr drafter;
    for (auto & params : settings) {
        params.speculative.draft.ctx_tgt = target;
        if (!params.speculative.has_dft()) {
            continue;
        }
        if (!drafter) {
            common_params for_draft = common_base_params_to_speculative(params);
            drafter = common_speculative_init_from_params(for_draft, loaded->model(), target);
        }
        params.speculative.draft.ctx_dft = drafter->context();
    }

    std::cout << "{\"settings\": " << settings.size() << ", \"system\": \"" << llama_print_system_info() << "\"}" << std::endl;
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream request(line);
        size_t setting = 0, most = 0;
        request >> setting >> most;
        llama_tokens prompt;
        for (llama_token id; request >> id;) {
            prompt.push_back(id);
        }
        if (setting >= settings.size() || prompt.empty() || most == 0) {
            fail("bad request");
        }
        auto & params = settings[setting];
        reply(write(target, params.speculative.draft.ctx_dft, params, prompt, most));
    }
    return 0;
}
