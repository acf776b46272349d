//! What a head is composed of, whatever dialect described it.

use crate::config::Config;
use crate::drafters::vocabulary::MapRule;
use crate::target::Tap;

/// A head: layers, and what goes in and out of them.
#[derive(Debug, Clone)]
pub(crate) struct Design {
    pub(crate) family: &'static str,
    pub(crate) dialect: &'static str,
    /// Its layers and sizes: `hidden` is its own width, `vocab` the rows of its own embedding.
    pub(crate) config: Config,
    /// What stands before the names of each layer's tensors.
    pub(crate) layer_names: Vec<String>,
    pub(crate) names: Names,
    /// Features that are joined to one; empty if nothing names them and no target is known.
    pub(crate) taps: Vec<Tap>,
    /// Width of one feature.
    pub(crate) feature: usize,
    pub(crate) join: Join,
    pub(crate) next: Next,
    /// Rows of its own head.
    pub(crate) head_rows: usize,
    pub(crate) map: MapRule,
    /// Tokens of the target.
    pub(crate) vocab: usize,
    pub(crate) slots: Option<Slots>,
    /// Whether the files hold nothing else.
    pub(crate) complete: bool,
}

/// Tensors outside the layers, matrices and norms without `.weight`. Absent: it has none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// Projection of features, or of embedding and feature.
    pub(crate) fc: String,
    /// Norms of the parts of what the projection of features reads, one after the other, and
    /// their widths.
    pub(crate) feature_norms: Vec<(String, usize)>,
    pub(crate) embedding_norm: Option<String>,
    pub(crate) hidden_norm: Option<String>,
    pub(crate) final_norm: Option<String>,
    /// Absent: the target's.
    pub(crate) embedding: Option<String>,
    /// Absent: the target's.
    pub(crate) head: Option<String>,
    /// Features of rows that stand for tokens to come; the full name.
    pub(crate) mask_hidden: Option<String>,
}

/// How a row's token and feature come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// The target's features are projected to the head's width. The first attention reads the
    /// normed embedding and the normed feature side by side; the feature is the residual stream.
    Beside {
        /// The normed feature is.
        normed_residual: bool,
    },
    /// Embedding and feature side by side are projected to the residual stream.
    Projected {
        /// The feature comes first.
        hidden_first: bool,
    },
}

/// What a row gives to the one behind it as feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The residual stream after the last layer.
    Residual,
    /// The same after the final norm.
    Normed,
}

/// Rows behind the text that guess later tokens in the same pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slots {
    /// Tokens that are guessed, the first included.
    pub(crate) count: usize,
    /// The token of such a row.
    pub(crate) mask: u32,
}
