//! The one error type of the library.
//!
//! An error names the thing that is wrong and, where there is a choice, what would work. Variants exist where a
//! caller acts differently, not for every cause: the command line prints all of them and exits with 1.
//! Errors are plain data and `Clone`, so one failure can be reported to every request that it ends.

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, in words for the person at the terminal.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A file's content is wrong: the field that is, and where it stands.
    #[error("{file}: {field}{}: {problem}", at(.offset))]
    File {
        /// Path, or a name such as `embedded demo model`.
        file: String,
        /// The header field, metadata key or tensor, as the format's document calls it.
        field: String,
        /// Byte offset of the field in the file, if it has one.
        offset: Option<u64>,
        /// What is wrong and, where there is a choice, what would work.
        problem: String,
    },
    /// The operating system refused or failed.
    #[error("{file}: {problem}")]
    Io {
        /// The file or device.
        file: String,
        /// What was tried and the system's answer.
        problem: String,
    },
    /// The thing is known, or well formed, but air cannot do it.
    #[error("{what} is not supported: {instead}")]
    Unsupported {
        /// The format, architecture, tokenizer, operation …
        what: String,
        /// What would work instead.
        instead: String,
    },
    /// A request or an argument is wrong.
    #[error("{0}")]
    Invalid(String),
    /// One field of a request is wrong.
    #[error("{field} {problem}")]
    Field {
        /// Its name, with what it is in: `messages[3].role`.
        field: String,
        /// What is wrong with it, and what it may be.
        problem: String,
    },
    /// A prompt, or it and the answer that is wanted, has more tokens than there is room for.
    #[error("{problem}")]
    TooLong {
        /// The field that has it: `prompt`, or `messages` of a chat.
        field: &'static str,
        /// How long it is, and how long it may be.
        problem: String,
    },
    /// A limit would be passed: memory, queue.
    #[error("{0}")]
    Limit(String),
    /// There is too much to do just now; the same request may succeed later.
    #[error("{0}")]
    Busy(String),
    /// The engine failed while it ran (a layer produced NaN, a thread died).
    #[error("{0}")]
    Engine(String),
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
}

fn at(offset: &Option<u64>) -> String {
    offset.map_or(String::new(), |o| format!(" at byte {o}"))
}

impl Error {
    /// An I/O error about `file` while doing `what` ("read 32 bytes at 100").
    pub fn io(file: impl Into<String>, what: impl std::fmt::Display, e: &std::io::Error) -> Self {
        Error::Io { file: file.into(), problem: format!("{what}: {e}") }
    }
}
