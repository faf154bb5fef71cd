//! The output: a file to which whole lines are appended, and that says by itself what is done.
//!
//! Each line goes out in one write to the end of the file, and to the drive about once a second. Whatever ends the
//! process can leave at most the beginning of one line, after the last end of a line: that is cut off when the file is
//! opened again. A lock keeps a second process away; the system gives it up with the process, however that ends.

use super::input::Index;
use crate::error::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use std::collections::HashSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How every line begins, as `openai` writes it.
const BEGINNING: &[u8] = b"{\"id\":\"batch_req_";
/// Most bytes of a line: an input line, and what a model may answer to it.
const MAX_LINE: u64 = 256 << 20;
/// Longest time that a written line may not be on the drive while others are written.
const SYNC: Duration = Duration::from_secs(1);

/// An output that this process alone writes.
pub struct Journal {
    name: String,
    file: File,
    /// All of it whole lines.
    len: u64,
    synced: Instant,
}

impl Journal {
    /// Opens or creates the file and locks it.
    ///
    /// # Errors
    /// `Io`; `Invalid` for the input itself, for what is no regular file, and where another process has the lock.
    pub fn open(path: &Path, input: &Metadata) -> Result<Journal> {
        let name = path.display().to_string();
        let failed = |what: &str, e: std::io::Error| Error::io(&name, what, &e);
        let invalid = |problem: &str| Err(Error::Invalid(format!("{name}: {problem}")));
        if std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
            return invalid("is not a regular file; name another");
        }
        let is_new = !path.exists();
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.map_err(|e| failed("cannot open", e))?;
        let metadata = file.metadata().map_err(|e| failed("cannot open", e))?;
        if (metadata.dev(), metadata.ino()) == (input.dev(), input.ino()) {
            return invalid("is the input; name another file for the output");
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return invalid("another process is writing it; wait until it ends"),
            Err(e) => return Err(failed("cannot lock", e.into())),
        }
        // Only now: whoever had the lock may have written to the last moment.
        let len = file.metadata().map_err(|e| failed("cannot open", e))?.len();
        if is_new {
            // The name is on the drive when the folder is. Not every file system lets one open a folder.
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let _ = File::open(folder).and_then(|f| f.sync_all());
        }
        Ok(Journal { name, file, len, synced: Instant::now() })
    }

    /// The lines of the input whose requests have been answered. What a process that was killed left of its last line
    /// is cut off. With `force`, lines that answer nothing of the input are passed over.
    ///
    /// # Errors
    /// `Invalid` for a file that is something else, or, without `force`, of another input. It is not changed then.
    pub fn finished(&mut self, index: &Index, force: bool) -> Result<HashSet<u64>> {
        let (mut done, mut number, mut whole) = (HashSet::new(), 0, 0);
        self.file.rewind().map_err(|e| self.failed("cannot read", &e))?;
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        loop {
            let mut line = Vec::new();
            let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line);
            let read = read.map_err(|e| self.failed("cannot read", &e))? as u64;
            number += 1;
            if line.pop_if(|b| *b == b'\n').is_none() {
                // A drive that lost its power may have made room for a line and not filled it.
                let end = line.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
                let ours = &line[..end.min(BEGINNING.len())];
                if read == MAX_LINE || !BEGINNING.starts_with(ours) {
                    return Err(self.foreign(number, "is not one that air was writing"));
                }
                break;
            }
            whole += read;
            match answered(&line, index) {
                Ok(request) => drop(done.insert(request)),
                Err(_) if force => {}
                Err(problem) => return Err(self.foreign(number, &problem)),
            }
        }
        if whole < self.len {
            self.file.set_len(whole).map_err(|e| self.failed("cannot cut off an unfinished line", &e))?;
            self.len = whole;
        }
        Ok(done)
    }

    fn foreign(&self, line: u64, problem: &str) -> Error {
        let name = &self.name;
        Error::Invalid(format!("{name}: line {line} {problem}; name another output, or say --force to append to it"))
    }

    /// Appends a line. One that cannot be written whole is taken back.
    ///
    /// # Errors
    /// `Io`: a full drive.
    pub fn append(&mut self, mut line: String) -> Result<()> {
        line.push('\n');
        if let Err(e) = write_whole(&mut self.file, line.as_bytes()) {
            // Where this fails too, the next start does it.
            let _ = self.file.set_len(self.len);
            return Err(self.failed("cannot write", &e));
        }
        self.len += line.len() as u64;
        if self.synced.elapsed() > SYNC { self.sync() } else { Ok(()) }
    }

    /// Brings what was written to the drive.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| self.failed("cannot write", &e))?;
        self.synced = Instant::now();
        Ok(())
    }

    fn failed(&self, what: &str, e: &std::io::Error) -> Error {
        Error::io(&self.name, what, e)
    }
}

/// One write, unless the system takes less than it was given.
fn write_whole(file: &mut File, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Which line of the input an output line answers.
fn answered(line: &[u8], index: &Index) -> Result<u64, String> {
    let Ok(Value::Object(line)) = serde_json::from_slice::<Value>(line) else { return Err("is not JSON".into()) };
    if !line.contains_key("response") || !line.contains_key("error") {
        return Err("is not an answer of a batch".into());
    }
    match (line.get("custom_id").and_then(Value::as_str), line.get("line").and_then(Value::as_u64)) {
        (Some(id), _) => {
            index.line_of(id).ok_or_else(|| format!("answers custom_id `{id}`, which the input does not have"))
        }
        (None, Some(n)) if index.is_nameless(n) => Ok(n),
        (None, _) => Err("answers a line that the input does not have".into()),
    }
}
