//! Drawing the weights and writing them, at the speed of the drive.
//!
//! The data is cut into chunks, each drawn from a seed of its own: the file depends on plan and seed, not on
//! threads. Thread t of n draws chunks t, t + n, … into its queue while the caller's thread takes them in turn and
//! writes; buffers go back for reuse, so memory is bounded by the queues. When writing fails or Ctrl-C is pressed,
//! the queues close, the threads end, and the writer takes the half file away.

use super::Model;
use crate::arch::synthetic::Draw;
use crate::cli::interrupt::Interrupt;
use crate::cli::{human, progress};
use crate::error::{Error, Result};
use crate::format::gguf::Writer;
use crate::quant::Kind;
use crate::quant::random::{self, Blocks};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of a chunk, about: it is whole blocks.
const CHUNK: u64 = 1 << 20;
/// Threads that draw.
const THREADS: usize = 2;
/// Chunks that each is ahead of the drive.
const AHEAD: usize = 4;

/// Writes the file and returns its size.
pub fn write(model: &Model, path: &Path, seed: u64, interrupt: &Interrupt) -> Result<u64> {
    let chunks = chunks(model)?;
    check_space(path, model.bytes()?)?;
    let mut writer = Writer::create(path, &model.meta, &model.plans)?;
    let total = writer.file_bytes();
    let bar = progress::bytes("writing", total);
    std::thread::scope(|scope| -> Result<()> {
        let mut lanes: Vec<Lane> = Vec::new();
        for first in 0..THREADS {
            let (full, taken) = sync_channel(AHEAD);
            let (back, empty) = sync_channel(AHEAD + 2);
            let mine = chunks.iter().skip(first).step_by(THREADS);
            scope.spawn(move || draw(mine, seed, &full, &empty));
            lanes.push((taken, back));
        }
        for i in 0..chunks.len() {
            interrupt.check()?;
            let (taken, back) = &lanes[i % THREADS];
            let bytes = taken.recv().map_err(|_| Error::Engine("a thread that draws weights died".into()))?;
            writer.write(&bytes)?;
            bar.inc(bytes.len() as u64);
            let _ = back.try_send(bytes); // its thread may be done
        }
        Ok(())
    })?;
    bar.set_message("flushing");
    interrupt.check()?;
    writer.finish()?;
    bar.finish_and_clear();
    Ok(total)
}

/// The queue of chunks from a thread, and that of used buffers back.
type Lane = (Receiver<Vec<u8>>, SyncSender<Vec<u8>>);

/// A piece of a tensor.
struct Chunk<'a> {
    source: Source<'a>,
    /// Where it stands, for its seed.
    tensor: u64,
    number: u64,
    bytes: usize,
}

#[derive(Clone)]
enum Source<'a> {
    Random(Blocks),
    Given(&'a [f32]),
}

fn chunks(model: &Model) -> Result<Vec<Chunk<'_>>> {
    let mut out = Vec::new();
    let mut known: Vec<(f32, Blocks)> = Vec::new();
    for (tensor, (t, plan)) in model.tensors.iter().zip(&model.plans).enumerate() {
        let (tensor, total) = (tensor as u64, plan.bytes()?);
        let std = match &t.draw {
            Draw::Random(std) => *std,
            Draw::Given(values) => {
                assert_eq!(plan.format.kind, Kind::F32, "given values are vectors, which every type keeps");
                out.push(Chunk { source: Source::Given(values), tensor, number: 0, bytes: total as usize });
                continue;
            }
        };
        let found = known.iter().find(|(s, b)| *s == std && b.format() == plan.format).map(|(_, b)| b.clone());
        let blocks = found.unwrap_or_else(|| {
            let blocks = Blocks::new(plan.format, std);
            known.push((std, blocks.clone()));
            blocks
        });
        let step = CHUNK.next_multiple_of(plan.format.block_bytes as u64);
        for (number, start) in (0..total).step_by(step as usize).enumerate() {
            let bytes = (total - start).min(step) as usize;
            out.push(Chunk { source: Source::Random(blocks.clone()), tensor, number: number as u64, bytes });
        }
    }
    Ok(out)
}

fn draw<'a>(
    chunks: impl Iterator<Item = &'a Chunk<'a>>,
    seed: u64,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) {
    for chunk in chunks {
        let mut bytes = empty.try_recv().unwrap_or_default();
        bytes.resize(chunk.bytes, 0);
        match &chunk.source {
            Source::Random(blocks) => blocks.fill(random::seed(&[seed, chunk.tensor, chunk.number]), &mut bytes),
            Source::Given(values) => {
                for (value, out) in values.iter().zip(bytes.as_chunks_mut::<4>().0) {
                    *out = value.to_le_bytes();
                }
            }
        }
        if full.send(bytes).is_err() {
            return; // nobody wants more: writing failed or was stopped
        }
    }
}

/// Refuses what the drive has no room for.
fn check_space(path: &Path, bytes: u64) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = |e: rustix::io::Errno| Error::io(folder.display().to_string(), "cannot ask for free space", &e.into());
    let fs = rustix::fs::statvfs(folder).map_err(fail)?;
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    if bytes > free {
        let (need, free) = (human::bytes(bytes), human::bytes(free));
        return Err(Error::Limit(format!("{}: {need} are needed, {free} are free there", folder.display())));
    }
    Ok(())
}
