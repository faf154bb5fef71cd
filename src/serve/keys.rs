//! Who may ask: keys from a file.
//!
//! A line holds a key, or `sha256:` and the hexadecimal SHA-256 of one, so that the file need not hold what it guards.
//! Behind it may stand what the key may ask for in a minute, `rpm=` answers and `tpm=` tokens; anything else there is
//! for people, as are lines that begin with `#`, unless it looks like a limit that is misspelt. Only the hashes are kept.
//! A key is compared by its hash with all of them, each in the same time whatever it holds.
//!
//! A file that has changed is read again, within a second or when that is asked for; one that cannot be read leaves the
//! keys as they were. The log says which. No request waits for it.

use super::files;
use super::limits::{Allowance, Limits};
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

const WHAT: &str = "keys";
/// Most bytes of a key.
const MAX_KEY: usize = 512;
type Hash = [u8; 32];

/// The keys of a file.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    known: Vec<(Hash, Limits)>,
    /// Of those that have asked, by their tenants.
    left: HashMap<u64, Allowance>,
    /// Of the file as it was read.
    changed: Option<SystemTime>,
}

impl Keys {
    /// Reads a file.
    ///
    /// # Errors
    /// `Io` when it cannot be read; `Invalid` when it has no key, or a line that is none.
    pub fn open(path: &Path) -> Result<Keys> {
        let changed = files::changed(path);
        let known = parse(path, &files::read(path, WHAT)?)?;
        let state = State { known, left: HashMap::new(), changed };
        Ok(Keys { path: path.into(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of whoever has a key, if it is one of them: as long as the key stays, it does.
    pub fn accept(&self, key: &[u8]) -> Option<u64> {
        let state = self.state();
        let hash: Hash = Sha256::digest(key).into();
        // All of them, and all bytes of each: how long it takes tells nothing.
        let found = state.known.iter().fold(false, |found, (known, _)| found | equal(known, &hash));
        found.then(|| tenant(&hash))
    }

    /// Reads the file again if it has changed. It may take as long as the file's drive does.
    pub fn refresh(&self) {
        let before = self.state().changed;
        if files::changed(&self.path) != before {
            self.reload();
        }
    }

    /// Reads the file again.
    pub fn reload(&self) {
        // Before it is read: what changes meanwhile is seen the next time.
        let changed = files::changed(&self.path);
        let known = files::reread(&self.path, WHAT).and_then(|text| parse(&self.path, &text));
        let mut state = self.state();
        state.changed = changed;
        match known {
            Err(e) => tracing::warn!("the keys stay as they were: {e}"),
            Ok(known) => {
                tracing::info!(keys = known.len(), "the keys were read again");
                let limits = |of: &[(Hash, Limits)], who| of.iter().find(|k| tenant(&k.0) == who).map(|k| k.1);
                let State { known: old, left, .. } = &mut *state;
                // Whose limits are the same has used up what it has.
                left.retain(|&who, _| limits(old, who) == limits(&known, who));
                *old = known;
            }
        }
    }

    /// Admits a request of a tenant, with the most tokens of each of its choices; what they do not need comes back.
    ///
    /// # Errors
    /// How long it must wait.
    pub fn admit(self: &Arc<Self>, who: u64, most: &[u64]) -> Result<Vec<Reserved>, Duration> {
        let mut state = self.state();
        let now = Instant::now();
        let State { known, left, .. } = &mut *state;
        let limits = known.iter().find(|(hash, _)| tenant(hash) == who).map_or(Limits::default(), |k| k.1);
        left.entry(who).or_insert_with(|| Allowance::new(limits, now)).admit(now, most.iter().sum())?;
        let reserve = |&tokens| Reserved { keys: self.clone(), who, tokens, used: 0.into() };
        Ok(most.iter().map(reserve).collect())
    }
}

/// Tokens that a choice may need, of its tenant's; what it has not used comes back when it is dropped.
#[derive(Debug)]
pub struct Reserved {
    keys: Arc<Keys>,
    who: u64,
    tokens: u64,
    used: AtomicU64,
}

impl Reserved {
    /// So many were computed.
    pub fn used(&self, tokens: u64) {
        self.used.store(tokens, Ordering::Relaxed);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(left) = self.keys.state().left.get_mut(&self.who) {
            left.settle(self.tokens, self.used.load(Ordering::Relaxed), Instant::now());
        }
    }
}

/// A hash is as good as random: its beginning is a number that nobody else has.
fn tenant(hash: &Hash) -> u64 {
    hash.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

fn equal(a: &Hash, b: &Hash) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b))) == 0
}

fn parse(path: &Path, text: &str) -> Result<Vec<(Hash, Limits)>> {
    let file = path.display();
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let hashes = keys.map(|(n, line)| {
        let mut words = line.split_whitespace();
        let key = hash(words.next().unwrap_or(""));
        let both = key.and_then(|hash| Ok((hash, limits(words)?)));
        both.map_err(|problem| Error::Invalid(format!("{file}: line {n}: {problem}")))
    });
    let hashes: Vec<(Hash, Limits)> = hashes.collect::<Result<_>>()?;
    let again = (0..hashes.len()).find(|&i| hashes[..i].iter().any(|(hash, _)| *hash == hashes[i].0));
    if let Some(i) = again {
        // Which limits would hold nobody could tell.
        return Err(Error::Invalid(format!("{file}: key {} of the file stands there twice", i + 1)));
    }
    match hashes.is_empty() {
        true => Err(Error::Invalid(format!("{file} has no key: write one a line"))),
        false => Ok(hashes),
    }
}

/// What stands behind a key.
fn limits<'a>(words: impl Iterator<Item = &'a str>) -> Result<Limits, String> {
    let mut limits = Limits::default();
    for word in words {
        let (limit, number) = match word.split_once('=') {
            Some(("rpm", n)) => (&mut limits.requests, n),
            Some(("tpm", n)) => (&mut limits.tokens, n),
            _ if ["rpm", "tpm"].iter().any(|limit| word.to_ascii_lowercase().contains(limit)) => {
                return Err(format!("`{word}` is no limit; write rpm=N or tpm=N, without spaces"));
            }
            _ => continue,
        };
        *limit = Some(number.parse().map_err(|_| format!("`{word}` needs a whole number"))?);
    }
    Ok(limits)
}

fn hash(key: &str) -> Result<Hash, String> {
    let Some(hex) = key.strip_prefix("sha256:") else {
        return match key.len() {
            8..=MAX_KEY => Ok(Sha256::digest(key.as_bytes()).into()),
            n => Err(format!("the key has {n} characters; it must have 8 to {MAX_KEY}")),
        };
    };
    let digit = |i: usize| hex.get(i..i + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let bytes: Option<Vec<u8>> = (0..64).step_by(2).map(digit).collect();
    let bytes = bytes.filter(|_| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    bytes.and_then(|b| b.try_into().ok()).ok_or_else(|| "sha256: needs 64 hexadecimal digits".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("air-keys-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn keys_stand_as_they_are_or_hashed() {
        // printf secret-two | sha256sum
        let whole = "CEBDF378F2D2BD60D3E3693349E8F20F329DAF11A276F849996f0a6377e2155b";
        let path = file("ok", &format!("# ours\n\nsecret-one  alice\nsha256:{whole} bob\n"));
        let keys = Keys::open(&path).unwrap();
        for (key, want) in
            [("secret-one", true), ("secret-two", true), ("alice", false), ("", false), ("secret", false)]
        {
            assert_eq!(keys.accept(key.as_bytes()).is_some(), want, "{key}");
        }
        assert!(keys.accept(whole.as_bytes()).is_none(), "a hash is no key");
        assert_ne!(keys.accept(b"secret-one"), keys.accept(b"secret-two"), "each is somebody else");
        std::fs::write(&path, format!("sha256:{}", &whole[..32])).unwrap();
        assert!(Keys::open(&path).unwrap_err().to_string().contains("line 1: sha256: needs 64"));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn each_key_has_its_own_limits() {
        let path = file("limits", "alice-key name=alice rpm=2\nbob-s-key tpm=1000 rpm=3\nfree-key\n");
        let keys = Arc::new(Keys::open(&path).unwrap());
        let who = |key: &str| keys.accept(key.as_bytes()).unwrap();
        let admitted = |key: &str| (0..9).filter(|_| keys.admit(who(key), &[1]).is_ok()).count();
        assert_eq!((admitted("alice-key"), admitted("free-key")), (2, 9));
        let some = keys.admit(who("bob-s-key"), &[400, 400]).unwrap();
        some[1].used(5000);
        // Two of these fit beside each other, a third does not.
        assert!(keys.admit(who("bob-s-key"), &[400]).is_err());
        drop(some);
        assert!(keys.admit(who("bob-s-key"), &[1]).unwrap_err() > Duration::from_secs(200));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_without_keys_is_refused() {
        for (name, text, want) in [
            ("empty", "# nothing\n", "has no key"),
            ("short", "abc", "line 1: the key has 3"),
            ("limit", "long-enough x rpm=-1", "line 1: `rpm=-1` needs"),
            ("misspelt", "long-enough RPM=1", "line 1: `RPM=1` is no limit"),
            ("apart", "long-enough rpm = 1", "line 1: `rpm` is no limit"),
            ("quoted", "long-enough \"tpm=1\"", "is no limit; write rpm=N"),
            ("twice", "long-enough rpm=1\nanother-key\nlong-enough rpm=2", "key 3 of the file stands there twice"),
        ] {
            let path = file(name, text);
            let e = Keys::open(&path).unwrap_err().to_string();
            assert!(e.contains(want), "{e}");
            std::fs::remove_file(path).unwrap();
        }
        assert!(Keys::open(Path::new("/none/keys")).unwrap_err().to_string().contains("cannot read the keys"));
    }
}
