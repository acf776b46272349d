//! CPU kernels of the Leveret engine. No knowledge of models lives here.
//!
//! The law of this crate is *row invariance*: every output row is computed by one fixed sequence
//! of floating-point operations, whatever the number of rows, their order, the tile they fall
//! into and the number of threads.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod activations;
pub mod attention;
mod bandwidth;
pub mod delta;
mod element;
mod file_map;
mod isa;
mod matmul;
mod memory;
pub mod ops;
pub mod quant;
mod rows;
mod settle;
mod simd;
mod team;

pub use activations::Activations;
pub use bandwidth::MemoryStream;
pub use element::ElementType;
pub use file_map::FileMap;
pub use isa::Isa;
pub use matmul::{Job, Matrix, MatrixError, Packing, Rows, matmul};
pub use rows::par_rows;
pub use settle::{Settling, settle_for};
pub use team::Team;
