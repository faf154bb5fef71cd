//! One pass: each stage once, all rows of all chunks.
//!
//! The runner owns the backend and the sequence state. It takes chunks of tokens of several sequences, makes room
//! for them, runs the stages in order (`pass`) and hands out the logits of the rows that want them. It decides nothing
//! about what to run; that is the scheduler's. A pass that fails or is given up leaves every sequence as long as it
//! was; one that does not allocates nothing of its own.

mod homes;

use super::foresight::{Foresight, Guesses};
use super::pass::{BoundStage, Pass, Watch};
use super::residence::Residence;
use crate::error::Result;
use crate::hal::{Backend, Bindings, KvLayout, Launched, ProgramId, Row, WeightId};
use crate::kv::{Kv, SeqId};
use crate::lower::{LOGITS, Lowered, RESIDUAL};
use crate::plan::Given;
use crate::stream::Streamer;
use std::time::Instant;

/// Tokens of one sequence that go into a pass.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// Which sequence.
    pub seq: SeqId,
    /// Its next tokens.
    pub tokens: &'a [u32],
    /// Of which of them the logits are wanted.
    pub outputs: Outputs,
}

/// Rows of a chunk whose logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// None: the middle of a prompt.
    None,
    /// The last.
    Last,
    /// All.
    All,
}

/// Most sequences of a pass: their page tables are listed on the stack.
pub const MAX_SEQUENCES: usize = 256;

/// A loaded model.
pub struct Runner {
    backend: Box<dyn Backend>,
    stream: Streamer,
    residence: Residence,
    /// In the order of the plan's units.
    weights: Vec<WeightId>,
    /// Weights that were kept and are not now.
    given: Given,
    /// Those of the plan, as long as the ring holds what a stage streams.
    pass_rows: usize,
    stages: Vec<BoundStage>,
    guesses: Guesses,
    kv: Kv,
    width: usize,
    vocab: usize,
    max_rows: usize,
    max_outputs: usize,
    context: u32,
    /// Of the last pass.
    logits: Vec<f32>,
    /// Reused.
    rows: Vec<Row>,
}

impl Runner {
    #[expect(clippy::too_many_arguments, reason = "called once, by the loader")]
    pub(super) fn new(
        backend: Box<dyn Backend>,
        (stream, residence): (Streamer, Residence),
        lowered: &Lowered,
        programs: &[ProgramId],
        weights: &[WeightId],
        layout: &KvLayout,
        max_rows: usize,
        max_outputs: usize,
        context: u32,
    ) -> Self {
        let bind = |s: &crate::lower::Stage| BoundStage {
            name: s.name.clone(),
            program: programs[s.program],
            bindings: Bindings { weights: s.weights.iter().map(|&w| weights[w]).collect(), layer: s.layer },
            whole: lowered.programs[s.program].runs_whole(),
        };
        let pass_rows = residence.pass_rows;
        let guesses = Guesses::new(lowered, &residence.plan, &residence.units, bind);
        Runner {
            backend,
            stream,
            residence,
            weights: weights.to_vec(),
            given: Given::default(),
            pass_rows,
            stages: lowered.stages.iter().map(bind).collect(),
            guesses,
            kv: Kv::new(layout, context, pass_rows),
            width: lowered.carries[RESIDUAL.0 as usize].width,
            vocab: lowered.vocab(),
            max_rows,
            max_outputs,
            context,
            logits: Vec::with_capacity(max_outputs * lowered.vocab()),
            rows: Vec::with_capacity(pass_rows),
        }
    }

    /// The backend's own words, and what of the weights it does not keep.
    pub fn description(&self) -> String {
        self.backend.description() + &self.residence.words()
    }

    /// The kernels that ran since the last call, if they were watched; `on` says whether to watch from now on.
    ///
    /// # Errors
    /// `Unsupported` where no GPU computes; `Engine` when it is lost.
    pub fn watch(&mut self, on: bool) -> Result<Vec<Launched>> {
        self.backend.watch(on)
    }

    /// What lives where.
    pub fn residence(&self) -> &Residence {
        &self.residence
    }

    /// What brings the weights that are not kept.
    pub fn stream(&self) -> &Streamer {
        &self.stream
    }

    /// Sequence state, to create, fork, restore and release sequences.
    pub fn kv(&mut self) -> &mut Kv {
        &mut self.kv
    }

    /// Sequence state as it is.
    pub fn state(&self) -> &Kv {
        &self.kv
    }

    /// Whether some layers see a window only.
    pub fn is_windowed(&self) -> bool {
        self.kv.is_windowed()
    }

    /// Most rows of a pass. One with more than a batch has reads each stage's weights once for all its tiles.
    pub fn pass_rows(&self) -> usize {
        self.pass_rows
    }

    /// Most rows of a pass whose logits are wanted.
    pub fn max_outputs(&self) -> usize {
        self.max_outputs
    }

    /// Positions of one sequence.
    pub fn context(&self) -> u32 {
        self.context
    }

    /// Positions of state that all sequences share, as those layers have them that have least.
    pub fn state_positions(&self) -> u32 {
        self.kv.capacity()
    }

    /// Width of the logits.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Runs one pass over chunks of different sequences. Afterwards `logits` gives the wanted rows, in their order.
    ///
    /// # Errors
    /// `Limit` when the sequence state is full; `Engine` when the device failed or a layer gave NaN or infinity,
    /// naming the layer.
    ///
    /// # Panics
    /// When the chunks have more than `MAX_SEQUENCES` sequences, `pass_rows` tokens or `max_outputs` wanted rows.
    pub fn run<'a, C>(&mut self, chunks: C) -> Result<()>
    where
        C: IntoIterator<Item = Chunk<'a>, IntoIter: Clone>,
    {
        self.run_watched(chunks, &mut |_, _| Ok(()))
    }

    /// As `run`; `watch` hears how far the pass is, and may give it up.
    ///
    /// # Errors
    /// As `run`, and those of `watch`.
    pub fn run_watched<'a, C>(&mut self, chunks: C, watch: &mut Watch) -> Result<()>
    where
        C: IntoIterator<Item = Chunk<'a>, IntoIter: Clone>,
    {
        let chunks = chunks.into_iter();
        self.rows.clear();
        for (i, c) in chunks.clone().enumerate() {
            self.kv.extend(c.seq, c.tokens.len() as u32, &mut *self.backend)?;
            let first = self.kv.len(c.seq);
            self.rows.extend(c.tokens.iter().enumerate().map(|(j, &token)| {
                let output = match c.outputs {
                    Outputs::None => false,
                    Outputs::Last => j + 1 == c.tokens.len(),
                    Outputs::All => true,
                };
                Row { token, seq: i as u32, pos: first + j as u32, output }
            }));
        }
        let mut tables: [&[Vec<u32>]; MAX_SEQUENCES] = [&[]; MAX_SEQUENCES];
        let mut sequences = 0;
        for c in chunks.clone() {
            tables[sequences] = self.kv.tables(c.seq);
            sequences += 1;
        }
        let outputs = self.rows.iter().filter(|r| r.output).count();
        let fits = self.rows.len() <= self.pass_rows && outputs <= self.max_outputs;
        assert!(fits, "the scheduler keeps the bounds");
        let (begun, before) = (Instant::now(), self.stream.counters().bytes);
        let mut pass = Pass {
            backend: &mut *self.backend,
            stream: &self.stream,
            stages: &self.stages,
            rows: &self.rows,
            tables: &tables[..sequences],
            tile: self.max_rows,
            foresight: Foresight::new(&mut self.guesses, &self.residence.plan, self.rows.len(), self.max_rows),
        };
        pass.run(outputs > 0, watch)?;
        self.logits.resize(outputs * self.vocab, 0.0);
        pass.backend.read(LOGITS, &mut self.logits);
        if self.logits.iter().any(|x| !x.is_finite()) {
            return Err(pass.blame(outputs > 0, self.width));
        }
        chunks.for_each(|c| self.kv.commit(c.seq, c.tokens.len() as u32));
        self.residence.brought(self.stream.counters().bytes - before, begun.elapsed());
        Ok(())
    }

    /// The logits of the last pass, `[outputs, vocab]`. A sampler may change them in place.
    pub fn logits(&mut self) -> &mut [f32] {
        &mut self.logits
    }
}
