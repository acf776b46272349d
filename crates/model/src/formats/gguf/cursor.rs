//! Checked reading of little-endian fields. Every fault says where it was met and what was read.

/// Bytes that a key or tensor name can have.
const MAX_NAME: usize = 1024;

/// A position in a file. Methods move past what they read.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Bytes from here to the end of the file.
    pub(super) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The next `n` bytes, which hold `what`.
    pub(super) fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], String> {
        let left = self.left();
        let n = usize::try_from(n).ok().filter(|&n| n <= left).ok_or_else(|| {
            format!("{what} at byte {} claims {n} bytes, but only {left} are left in the file", self.at)
        })?;
        let taken = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let left = self.left();
        let taken = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk);
        let Some(taken) = taken else {
            return Err(format!(
                "the file ends inside {what} at byte {}: expected {N} bytes, found {left}; is it cut short?",
                self.at
            ));
        };
        self.at += N;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length-prefixed string, as bytes.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a [u8], String> {
        let n = self.u64(what)?;
        self.take(n, what)
    }

    /// A length-prefixed name, which errors can quote: short UTF-8 without control characters.
    pub(super) fn name(&mut self, what: &str) -> Result<&'a str, String> {
        let at = self.at;
        let bytes = self.string(what)?;
        if bytes.len() > MAX_NAME {
            let n = bytes.len();
            return Err(format!("{what} at byte {at} has {n} bytes; expected at most {MAX_NAME}"));
        }
        match std::str::from_utf8(bytes) {
            Ok(name) if !name.contains(char::is_control) => Ok(name),
            _ => Err(format!(
                "{what} at byte {at} is \"{}\"; expected UTF-8 without control characters",
                bytes.escape_ascii()
            )),
        }
    }

    /// A count of things that take at least `least` bytes each, so that no count can claim more
    /// than the file holds.
    pub(super) fn count(&mut self, least: usize, what: &str) -> Result<usize, String> {
        let at = self.at;
        let count = self.u64(what)?;
        let most = (self.left() / least) as u64;
        if count > most {
            return Err(format!(
                "{what} at byte {at} is {count}, but the {} bytes left have room for at most {most}",
                self.left()
            ));
        }
        Ok(count as usize)
    }
}
