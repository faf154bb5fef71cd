//! The input: read twice, line by line, never whole. The first time gives the index: which `custom_id`s there are and
//! that none is twice, before anything runs; the second time the requests themselves.

use crate::error::{Error, Result};
use crate::openai;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Most bytes of a line.
const MAX_LINE: usize = 4 << 20;
/// Most requests of a file: their names are in memory.
const MAX_REQUESTS: usize = 1_000_000;

/// A line that is not blank.
pub struct Line {
    /// From 1 on; blank lines count.
    pub number: u64,
    /// Its `custom_id`, if it has one that can be used.
    pub custom_id: Option<String>,
    /// Without its end.
    pub bytes: u64,
    /// Its JSON, or what is wrong.
    pub value: Result<Value>,
}

/// The lines of a file.
pub struct Lines {
    name: String,
    reader: BufReader<File>,
    number: u64,
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// `Io`; `Invalid` for what is no regular file and so cannot be read twice.
    pub fn open(path: &Path) -> Result<(Lines, Metadata)> {
        let name = path.display().to_string();
        let failed = |e: &std::io::Error| Error::io(&name, "cannot read", e);
        // Before it is opened: opening a pipe waits for whoever writes it.
        let metadata = std::fs::metadata(path).map_err(|e| failed(&e))?;
        if !metadata.is_file() {
            return Err(Error::Invalid(format!("{name}: is not a regular file, and it is read twice; name one")));
        }
        let file = File::open(path).map_err(|e| failed(&e))?;
        Ok((Lines { name, reader: BufReader::with_capacity(1 << 20, file), number: 0 }, metadata))
    }

    /// The next line that is not blank; `None` at the end.
    ///
    /// # Errors
    /// `Io`.
    pub fn next(&mut self) -> Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let most = MAX_LINE as u64 + 1;
            let read = (&mut self.reader).take(most).read_until(b'\n', &mut bytes).map_err(|e| self.failed(&e))?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let number = self.number;
            let whole = bytes.pop_if(|b| *b == b'\n').is_some();
            if bytes.len() > MAX_LINE {
                if !whole {
                    self.reader.skip_until(b'\n').map_err(|e| self.failed(&e))?;
                }
                let value = Err(Error::Limit(format!("the line has more than {} MiB", MAX_LINE >> 20)));
                return Ok(Some(Line { number, custom_id: None, bytes: 0, value }));
            }
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            // The parser bounds the depth.
            let value = serde_json::from_slice(&bytes).map_err(|e| {
                let problem = e.to_string().replace(" at line 1 column", " at column");
                Error::Invalid(format!("the line is not JSON: {problem}"))
            });
            let id = |v: &Value| openai::key(v.get("custom_id")).map(str::to_string);
            let custom_id = value.as_ref().ok().and_then(id);
            return Ok(Some(Line { number, custom_id, bytes: bytes.len() as u64, value }));
        }
    }

    fn failed(&self, e: &std::io::Error) -> Error {
        Error::io(&self.name, format_args!("cannot read line {}", self.number + 1), e)
    }
}

/// Bytes of a line for each token of its prompt, about. Only how much state is reserved depends on it.
const BYTES_PER_TOKEN: u64 = 3;

/// What requests a file has. Each is known by the number of its line.
pub struct Index {
    ids: HashMap<String, u64>,
    /// About how many tokens all prompts have, and the answers that say how long they may be.
    tokens: u64,
    /// Requests that do not say it.
    open: u64,
    /// Lines without a `custom_id`.
    nameless: HashSet<u64>,
}

impl Index {
    /// Reads all lines.
    ///
    /// # Errors
    /// Those of `Lines`; `Invalid` for a `custom_id` that is there twice; `Limit` for too many lines.
    pub fn read(mut lines: Lines) -> Result<Index> {
        let mut index = Index { ids: HashMap::new(), tokens: 0, open: 0, nameless: HashSet::new() };
        while let Some(line) = lines.next()? {
            if index.len() == MAX_REQUESTS {
                let problem = format!("{}: has more than {MAX_REQUESTS} requests; split it", lines.name);
                return Err(Error::Limit(problem));
            }
            index.count(&line);
            let Some(id) = line.custom_id else {
                index.nameless.insert(line.number);
                continue;
            };
            if let Some(first) = index.ids.get(&id) {
                let (name, second) = (&lines.name, line.number);
                return Err(Error::Invalid(format!(
                    "{name}: lines {first} and {second} have the same custom_id, `{id}`; it must be unique"
                )));
            }
            index.ids.insert(id, line.number);
        }
        Ok(index)
    }

    fn count(&mut self, line: &Line) {
        let body = line.value.as_ref().ok().and_then(|v| v.get("body"));
        let limit = |name: &str| body.and_then(|b| b.get(name)?.as_u64()).filter(|&n| n <= u32::MAX.into());
        match limit("max_completion_tokens").or_else(|| limit("max_tokens")) {
            Some(n) => self.tokens += n,
            None => self.open += 1,
        }
        self.tokens += line.bytes / BYTES_PER_TOKEN;
    }

    /// About how many positions `sequences` requests at once take, with something to spare, where an answer may have
    /// `max_tokens` unless its request says something else.
    pub fn positions(&self, sequences: usize, max_tokens: u32) -> u64 {
        let tokens = self.tokens.saturating_add(self.open.saturating_mul(max_tokens.into()));
        let each = tokens / self.len().max(1) as u64;
        each.saturating_add(each / 4 + 32).saturating_mul(sequences as u64)
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.ids.len() + self.nameless.len()
    }

    /// The line of a `custom_id`.
    pub fn line_of(&self, custom_id: &str) -> Option<u64> {
        self.ids.get(custom_id).copied()
    }

    /// Whether a line is there and has no `custom_id`.
    pub fn is_nameless(&self, line: u64) -> bool {
        self.nameless.contains(&line)
    }

    /// Whether a line is as it was when the index was made.
    pub fn knows(&self, line: &Line) -> bool {
        match &line.custom_id {
            Some(id) => self.line_of(id) == Some(line.number),
            None => self.is_nameless(line.number),
        }
    }
}
