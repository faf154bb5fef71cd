//! Where a backend's weights come from: panels, each with its home.
//!
//! A `Panel` is a range of rows of one weight, the unit of everything that moves. A backend keeps some in its own
//! memory and asks a `Supply` for the others during each launch; the supply knows files and the order of use, and the
//! backend knows neither. Panels of one weight do not overlap, cover it, stand in order, and never cross experts.

use crate::error::Error;
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Where a panel is between launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// In the backend's memory and layout.
    Memory,
    /// On the drive. It comes in each pass that needs it, in the order of use.
    Stream,
    /// In the supply's memory; in a processor's layout where one may compute with it (`WeightDesc::arranged`), else as
    /// in the checkpoint. It is carried to a device that computes in each pass that needs it.
    Host,
    /// On the drive, and for a while in the supply's memory: a part of an expert, which comes when it is wanted.
    Cache,
    /// On the drive. Of it single rows are read when they are wanted; it is never multiplied with.
    Drive,
}

/// Some rows of a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panel {
    /// Its name towards the supply.
    pub number: u32,
    /// Rows, counted over all experts. They begin at a multiple of sixteen rows of their expert.
    pub rows: Range<usize>,
    /// Where it is kept.
    pub home: Home,
}

/// A panel that is wanted, and whatever helps the caller to know it again.
pub type Wanted = (u32, u32);

/// How many panels are lent at a time, at most: one is copied while the next one waits for its copy.
pub const LOANS: usize = 2;

/// Bytes that can be read behind a panel which the supply keeps: processors read whole vectors.
pub const BEHIND: usize = 64;

/// A panel that is lent; dropping it gives it back.
pub trait Loan: Send + std::fmt::Debug {
    /// Its bytes.
    fn bytes(&self) -> &[u8];
}

impl Loan for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Has memory of the host held where it is, so that a device reads it by itself and at its link's full speed.
pub trait Pinner: Send + Sync + std::fmt::Debug {
    /// Holds `len` bytes from `start` on until what is returned is dropped, which must be before the memory goes.
    ///
    /// # Errors
    /// Why not, in words. The memory can be lent as it is, only copies are slower.
    fn pin(&self, start: *mut u8, len: usize) -> Result<Box<dyn Any + Send + Sync>, String>;
}

/// Hands out the bytes of panels, as they are in the checkpoint: row after row. Callable from several threads.
pub trait Supply: Send + Sync + std::fmt::Debug {
    /// Says which cached panels the next step needs, each once, so that those that are missing come. They are put in
    /// the order in which to ask for them: what is there comes first. A step ends when every one of them has had its
    /// uses; panels of the same experts that a later step needs may come with them.
    fn want(&self, panels: &mut [Wanted]);

    /// Waits until a panel is there and gives its bytes to `f`. After `uses` such calls its place is free for another
    /// panel. Callers ask for panels in the order of their use (cached ones: in that of `want`), and hold none while
    /// they wait for the next.
    ///
    /// # Errors
    /// `Io` when it could not be read, and from then on until the next pass.
    fn panel(&self, number: u32, uses: u32, f: &mut dyn FnMut(&[u8])) -> Result<()>;

    /// Waits until a panel is there and lends it for one use, for copies that go on behind the caller's back. At most
    /// `LOANS` are held at a time, others than of panels of the supply's own memory.
    ///
    /// # Errors
    /// As `panel`.
    fn lend(self: Arc<Self>, number: u32) -> Result<Box<dyn Loan>> {
        let mut copy = vec![];
        self.panel(number, 1, &mut |bytes| copy.extend_from_slice(bytes))?;
        Ok(Box::new(copy))
    }

    /// Reads some bytes of a panel now, from byte `at` of it on.
    ///
    /// # Errors
    /// `Io` when they could not be read.
    fn bytes(&self, number: u32, at: usize, out: &mut [u8]) -> Result<()>;
}
