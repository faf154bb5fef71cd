//! Models split over several files, `NAME-00001-of-0000N.gguf`.
//!
//! Each part is a GGUF of its own. The keys `split.no` (from 0), `split.count` and `split.tensors.count` say how
//! they belong together; the first part carries the model's metadata. All parts must be there, in their places and
//! of one mind. Air opens a split model by its first part; handed another one it says which to open.

use super::read::{self, Part};
use crate::error::{Error, Result};
use crate::source::Source;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many files.
pub(super) const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";
/// The name has five digits.
const MAX_COUNT: u32 = 99_999;

/// Of how many files the model consists, as this one declares it.
pub(super) fn count(part: &Part) -> Result<u32> {
    match part.meta.opt_u32(COUNT)? {
        Some(n) if n > MAX_COUNT => Err(part.meta.error(COUNT, format!("{n} files; at most {MAX_COUNT} are possible"))),
        n => Ok(n.unwrap_or(1).max(1)),
    }
}

/// Opens the other parts, given the first.
pub(super) fn open_rest(path: &Path, first: Part, count: u32) -> Result<Vec<Part>> {
    let place = Place::of(path, count).ok_or_else(|| {
        let name = format!("NAME-00001-of-{count:05}.gguf");
        first
            .meta
            .error(COUNT, format!("it is one of {count} files, so it must be called {name}, with the rest beside it"))
    })?;
    if place.number != 0 {
        let start = place.part(0);
        let problem = format!("it is file {} of {count}; open the first: {}", place.number + 1, start.display());
        return Err(first.meta.error(NUMBER, problem));
    }
    let total = first.meta.opt_u32(TENSORS)?;
    let mut parts = vec![first];
    check_number(&parts[0], 0)?;
    for i in 1..count {
        let path = place.part(i);
        let source = Source::open(&path).map_err(|e| missing(e, i, count))?;
        let part = read::read(Arc::new(source), i as usize)?;
        check_number(&part, i)?;
        check_agrees(&part, COUNT, Some(count))?;
        if part.meta.get(TENSORS).is_some() {
            check_agrees(&part, TENSORS, total)?;
        }
        parts.push(part);
    }
    let found: usize = parts.iter().map(|p| p.tensors.len()).sum();
    match total {
        Some(n) if n as usize != found => {
            Err(parts[0].meta.error(TENSORS, format!("{n} tensors are declared, the {count} files hold {found}")))
        }
        _ => Ok(parts),
    }
}

fn missing(e: Error, i: u32, count: u32) -> Error {
    match e {
        Error::Io { file, problem } => {
            Error::Io { file, problem: format!("{problem} (file {} of a model split over {count})", i + 1) }
        }
        other => other,
    }
}

fn check_number(part: &Part, i: u32) -> Result<()> {
    match part.meta.u32(NUMBER)? {
        n if n == i => Ok(()),
        n => {
            Err(part.meta.error(NUMBER, format!("it is {n}, but by its name the file has number {i}; was it renamed?")))
        }
    }
}

fn check_agrees(part: &Part, key: &str, want: Option<u32>) -> Result<()> {
    let is = part.meta.opt_u32(key)?;
    if is == want {
        return Ok(());
    }
    let say = |n: Option<u32>| n.map_or("nothing".into(), |n| n.to_string());
    Err(part.meta.error(key, format!("it says {}, the first file says {}", say(is), say(want))))
}

/// What a part's name says.
struct Place {
    folder: PathBuf,
    prefix: String,
    number: u32,
    count: u32,
}

impl Place {
    /// Splits `folder/PREFIX-00002-of-00005.gguf`, if the name is one of `count` files.
    fn of(path: &Path, count: u32) -> Option<Place> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, of) = name.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let digits = |s: &str| (s.len() == 5).then(|| s.parse::<u32>().ok())?;
        let (number, of) = (digits(number)?, digits(of)?);
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        (of == count && (1..=count).contains(&number)).then(|| Place {
            folder,
            prefix: prefix.into(),
            number: number - 1,
            count,
        })
    }

    /// The path of part `i`, from 0.
    fn part(&self, i: u32) -> PathBuf {
        self.folder.join(format!("{}-{:05}-of-{:05}.gguf", self.prefix, i + 1, self.count))
    }
}
