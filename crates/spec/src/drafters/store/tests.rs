//! The store on disk: what is written is read, by several at a time, and nothing that a file may
//! hold does harm.

use super::*;
use crate::draft::Draft;
use crate::drafter::{Context, Drafter};
use std::fs;

/// A folder of its own for each test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("leveret-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("sub").join("model.texts")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn reopened(folder: &Folder) -> Arc<Store> {
    let store = Store::open(&folder.file(), 7, 4000);
    assert_eq!(store.wait(), None);
    store
}

fn guessed(store: &Arc<Store>, tokens: &[u32]) -> Vec<u32> {
    let mut draft = Draft::new();
    StoreDrafter::new(Arc::clone(store)).propose(&Context::new(tokens, tokens.len()), 4, &mut draft);
    draft.nodes().iter().map(|node| node.token).collect()
}

#[test]
fn what_was_written_is_guessed_by_the_next_process() {
    let folder = Folder::new("next");
    let store = reopened(&folder);
    assert!(guessed(&store, &[1, 2, 3]).is_empty());
    store.add(&[9, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(guessed(&store, &[1, 2, 3]), [4, 5, 6, 7]);
    assert!(!folder.file().exists(), "nothing is written before it is saved");
    store.save().unwrap();
    assert_eq!(guessed(&reopened(&folder), &[0, 2, 3]), [4, 5, 6, 7]);
}

#[cfg(unix)]
#[test]
fn texts_are_the_owner_s_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("mode");
    let store = reopened(&folder);
    store.add(&[1, 2]);
    store.save().unwrap();
    assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn several_writers_lose_nothing() {
    let folder = Folder::new("several");
    let stores: Vec<_> = (0..4).map(|_| reopened(&folder)).collect();
    std::thread::scope(|scope| {
        for (i, store) in (0u32..).zip(&stores) {
            scope.spawn(move || {
                for k in 0..10 {
                    store.add(&[100 * i + k, 1000 + i, 2000 + k]);
                    store.save().unwrap();
                }
            });
        }
    });
    let store = reopened(&folder);
    assert_eq!(store.len(), 4 * 10 * 3);
    assert_eq!(guessed(&store, &[302, 1003])[..1], [2002]);
    // Nothing is left behind but the file and its lock.
    assert_eq!(fs::read_dir(folder.file().parent().unwrap()).unwrap().count(), 2);
}

#[test]
fn the_oldest_texts_go_first() {
    let folder = Folder::new("bounded");
    let store = reopened(&folder);
    for i in 0..200 {
        store.add(&[i, i + 1000, i + 2000, i + 3000]);
        store.save().unwrap();
    }
    assert!(fs::metadata(folder.file()).unwrap().len() <= 4100);
    let store = reopened(&folder);
    assert!(guessed(&store, &[0, 1000]).is_empty());
    assert_eq!(guessed(&store, &[199, 1199]), [2199, 3199]);
}

#[test]
fn what_is_damaged_is_replaced_and_what_is_not_ours_is_not() {
    let folder = Folder::new("bad");
    let store = reopened(&folder);
    store.add(&[1, 2, 3, 4]);
    store.save().unwrap();
    let good = fs::read(folder.file()).unwrap();
    let mut bad: Vec<Vec<u8>> = vec![b"hello".to_vec(), vec![0xff; 100], good[..good.len() - 1].to_vec()];
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bad.push(bytes);
    }
    for bytes in bad {
        fs::write(folder.file(), &bytes).unwrap();
        let store = Store::open(&folder.file(), 7, 4000);
        assert!(store.wait().is_some_and(|note| note.contains("model.texts")), "{bytes:?}");
        assert!(guessed(&store, &[1, 2]).is_empty());
        store.add(&[5, 6, 7]);
        // Magic and key say whose it is.
        if bytes.starts_with(&good[..16]) {
            store.save().unwrap();
            assert_eq!(guessed(&reopened(&folder), &[5, 6]), [7]);
        } else {
            let refused = store.save().unwrap_err().to_string();
            assert!(refused.contains("name another"), "{refused}");
            assert_eq!(fs::read(folder.file()).unwrap(), bytes);
            assert_eq!(guessed(&store, &[5, 6]), [7], "it is of use to this process");
        }
    }
    fs::write(folder.file(), &good).unwrap();
    let other = Store::open(&folder.file(), 8, 4000);
    assert!(other.wait().is_some());
    other.add(&[5, 6, 7]);
    assert!(other.save().is_err());
    assert_eq!(guessed(&reopened(&folder), &[1, 2]), [3, 4]);
    fs::write(folder.file(), "").unwrap();
    other.save().unwrap();
    assert_eq!(fs::read(folder.file()).unwrap()[..8], good[..8]);
}
