//! The check itself, checked: a lawful model passes, and one wrong bit anywhere is found.

use super::*;
use leveret_model::Tap;

/// Whether a row is wrong, by rows of the pass, the row, and whether the pass is a tree.
type Fault = fn(usize, usize, bool) -> bool;

/// A model whose logits follow from the tokens before; with a fault, also from the pass.
#[derive(Default)]
struct Toy {
    logits: Vec<Vec<f32>>,
    fault: Option<Fault>,
}

/// A hash of the text after each committed row, and of each row of the last pass.
#[derive(Default)]
struct Texts {
    committed: Vec<u64>,
    pending: Vec<u64>,
}

impl Cache for Texts {
    fn len(&self) -> usize {
        self.committed.len()
    }

    fn capacity(&self) -> usize {
        usize::MAX
    }

    fn commit(&mut self, path: &[usize]) -> leveret_model::Result<()> {
        self.committed.extend(path.iter().map(|&row| self.pending[row]));
        Ok(())
    }

    fn truncate(&mut self, len: usize) -> leveret_model::Result<()> {
        self.committed.truncate(len);
        Ok(())
    }
}

impl Target for Toy {
    type Cache = Texts;

    fn vocab_size(&self) -> usize {
        17
    }

    fn max_context(&self) -> usize {
        4096
    }

    fn new_cache(&self, _capacity: usize) -> leveret_model::Result<Texts> {
        Ok(Texts::default())
    }

    fn forward(&mut self, passes: &mut [Pass<'_, Texts>], _taps: &[Tap]) -> leveret_model::Result<()> {
        self.logits.clear();
        for pass in passes {
            let rows = pass.tokens.len();
            pass.cache.pending.clear();
            for (row, &token) in pass.tokens.iter().enumerate() {
                let parent = pass.parents.map_or(row.checked_sub(1), |parents| parents[row]);
                let root = pass.cache.committed.last().copied().unwrap_or(1);
                let before = parent.map_or(root, |parent| pass.cache.pending[parent]);
                let text = before.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(9) ^ u64::from(token);
                pass.cache.pending.push(text);
                let wanted = match pass.logits {
                    LogitRows::None => false,
                    LogitRows::Last => row + 1 == rows,
                    LogitRows::All => true,
                };
                if wanted {
                    let mut logits: Vec<f32> = (0..17).map(|i| (text >> i & 0xff) as f32).collect();
                    if self.fault.is_some_and(|fault| fault(rows, row, pass.parents.is_some())) {
                        logits[3] = f32::from_bits(logits[3].to_bits() + 1);
                    }
                    self.logits.push(logits);
                }
            }
        }
        Ok(())
    }

    fn logits(&self, index: usize) -> &[f32] {
        &self.logits[index]
    }

    fn feature(&self, _tap: usize, _row: usize) -> &[f32] {
        &[]
    }
}

fn check(fault: Option<Fault>) -> Result<usize> {
    let tokens: Vec<u32> = (0..200).map(|i| i * i % 17).collect();
    let mut toy = Toy { fault, ..Toy::default() };
    Reference::new(&mut toy, &tokens)?.check(&mut toy, "toy")
}

#[test]
fn a_lawful_model_passes_and_one_wrong_bit_is_found() {
    assert!(check(None).unwrap() > 1000);
    let faults: [(Fault, &str); 4] = [
        (|rows, _, _| rows == 13, "passes of 13: row 0"),
        (|rows, row, _| rows == 32 && row == 31, "passes of 32: row 31"),
        (|_, row, is_tree| is_tree && row == 5, "tree: row 5"),
        (|_, row, is_tree| is_tree && row == 4, "tree: row 4, a branch"),
    ];
    for (fault, place) in faults {
        let found = check(Some(fault)).unwrap_err().to_string();
        assert!(found.contains(place) && found.contains("logit of token 3"), "{found}");
    }
}
