//! How each byte-level family cuts text into pieces before merging.
//!
//! The patterns are those of the families' published `tokenizer.json` files; a GGUF names the
//! family in `tokenizer.ggml.pre`. Text that no pattern matches is a piece of its own.

use tokenizers::SplitDelimiterBehavior::Isolated;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, pre_tokenizers};

/// A family of pre-tokenizers.
#[derive(Debug)]
pub(super) struct Family {
    /// Names in `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Patterns, applied one after the other, each within the pieces of the one before.
    patterns: &'static [&'static str],
    /// A piece that is a token as it stands is not merged.
    pub(super) whole_words: bool,
    /// Whether a prompt starts with the BOS token where the file does not say.
    pub(super) add_bos: bool,
}

/// What `ByteLevel` splits by where it is told to.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const FAMILIES: &[Family] = &[
    Family {
        names: &["default", ""],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        whole_words: false,
        add_bos: false,
    },
    Family {
        names: &["gpt-2", "gpt2", "phi-2", "olmo", "mpt", "exaone4", "jais", "trillion"],
        patterns: &[GPT2],
        whole_words: false,
        add_bos: false,
    },
    Family {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
        patterns: &[LLAMA3],
        whole_words: true,
        add_bos: true,
    },
    Family {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"],
        patterns: &[LLAMA3],
        whole_words: false,
        add_bos: false,
    },
    Family {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2"],
        patterns: &[QWEN2],
        whole_words: false,
        add_bos: false,
    },
    Family { names: &["qwen35"], patterns: &[QWEN35], whole_words: false, add_bos: false },
    Family {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[r"\p{N}", GPT2],
        whole_words: false,
        add_bos: false,
    },
    Family {
        names: &["gpt-4o", "llama4", "minimax-m2"],
        patterns: &[O200K],
        whole_words: false,
        add_bos: false,
    },
    Family { names: &["tekken"], patterns: &[TEKKEN], whole_words: true, add_bos: true },
];

impl Family {
    /// The family that `tokenizer.ggml.pre` names, or `None` if it is not known here.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.names.contains(&name))
    }

    /// The family with these patterns and this treatment of whole words, by its usual name.
    pub(super) fn with(patterns: &[String], whole_words: bool) -> Option<&'static str> {
        let same = |family: &&Self| family.patterns == patterns && family.whole_words == whole_words;
        FAMILIES.iter().find(same)?.names.first().copied()
    }

    /// All names, for messages.
    pub(super) fn known() -> String {
        let names = FAMILIES.iter().flat_map(|family| family.names).filter(|name| !name.is_empty());
        names.copied().collect::<Vec<_>>().join(", ")
    }

    /// Compiles the patterns, followed by the mapping of bytes to printable characters.
    pub(super) fn pre_tokenizer(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        let split = |pattern: &&str| {
            let pattern = SplitPattern::Regex((*pattern).into());
            Split::new(pattern, Isolated, false).map(pre_tokenizers::PreTokenizerWrapper::Split)
        };
        let mut steps = self.patterns.iter().map(split).collect::<tokenizers::Result<Vec<_>>>()?;
        steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false)));
        Ok(PreTokenizerWrapper::Sequence(Sequence::new(steps)))
    }
}
