//! Texts that were written earlier, kept from one run to the next, and a drafter that guesses from
//! them (after SuffixDecoding, arXiv 2411.04975).
//!
//! A store belongs to one model, holds token ids, and is bounded: the oldest texts go first. It is
//! read in the background, and until it is there nothing is guessed from it.

mod drafter;
mod file;
mod index;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use file::Fault;
use index::Index;

pub use drafter::StoreDrafter;

/// Bytes of a file by default: some half a million tokens.
pub const DEFAULT_BYTES: usize = 4 << 20;

/// Earlier texts of one model. Several processes may use one file at a time.
#[derive(Debug)]
pub struct Store {
    /// `None` where nothing is kept beyond this process.
    path: Option<PathBuf>,
    key: u64,
    /// Most tokens that are kept.
    most: usize,
    index: RwLock<Arc<Index>>,
    /// Set when the file has been read, to what is wrong with it if anything is.
    read: OnceLock<Option<String>>,
    /// What this process has added and not saved.
    added: Mutex<Vec<Vec<u32>>>,
}

impl Store {
    /// The store of the model `key` at `path`, of at most about `bytes`. Returns at once.
    ///
    /// A file that cannot be used counts as empty; see [`wait`](Self::wait). The next save replaces one of this model's
    /// that is damaged, and no other.
    pub fn open(path: &Path, key: u64, bytes: usize) -> Arc<Self> {
        let store = Arc::new(Self::new(Some(path.to_owned()), key, bytes));
        let reader = Arc::clone(&store);
        // Without a thread to be had the store is read when something is added to it.
        let _ = std::thread::Builder::new().name("store".into()).spawn(move || {
            reader.wait();
        });
        store
    }

    /// A store of about `bytes` that is gone with this process.
    pub fn in_memory(bytes: usize) -> Arc<Self> {
        Arc::new(Self::new(None, 0, bytes))
    }

    fn new(path: Option<PathBuf>, key: u64, bytes: usize) -> Self {
        let (index, read, added) = Default::default();
        Self { path, key, most: bytes / file::BYTES, index, read, added }
    }

    /// Waits until the file has been read. Returns what is wrong with it, if anything is.
    pub fn wait(&self) -> Option<&str> {
        let read = self.read.get_or_init(|| {
            let path = self.path.as_deref()?;
            match file::read(path, self.key) {
                Ok(index) => {
                    self.publish(index);
                    None
                }
                Err(what) => Some(format!("{}: {what}; earlier texts are left aside", path.display())),
            }
        });
        read.as_deref()
    }

    /// Tokens that are kept.
    pub fn len(&self) -> usize {
        self.index().order.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a text, for later ones of this process and, once saved, of others.
    pub fn add(&self, text: &[u32]) {
        self.wait();
        let text = &text[..text.len().min(self.most / 4)];
        let mut index = Index::clone(&self.index());
        index.add(text, self.most);
        self.publish(index);
        if self.path.is_some()
            && let Ok(mut added) = self.added.lock()
        {
            added.push(text.to_vec());
        }
    }

    /// Writes what was added to the file, beside what other processes have added to it.
    ///
    /// # Errors
    /// What the system says, or that the file is not one of this model's texts; what was added stays to be saved.
    pub fn save(&self) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let Ok(mut added) = self.added.lock() else { return Ok(()) };
        if added.is_empty() {
            return Ok(());
        }
        let _turn = file::lock(path)?;
        let mut index = match file::read(path, self.key) {
            Ok(index) => index,
            Err(Fault::Damaged(_)) => Index::default(),
            Err(Fault::Foreign(what)) => return Err(std::io::Error::other(what)),
        };
        let before = index.clone();
        for text in added.iter() {
            index.add(text, self.most);
        }
        if index != before {
            file::write(path, self.key, &index)?;
        }
        added.clear();
        self.publish(index);
        Ok(())
    }

    fn index(&self) -> Arc<Index> {
        self.index.read().map(|index| Arc::clone(&index)).unwrap_or_default()
    }

    fn publish(&self, index: Index) {
        if let Ok(mut place) = self.index.write() {
            *place = Arc::new(index);
        }
    }
}
