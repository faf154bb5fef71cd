//! One pass: each stage once, all rows of the batch.
//!
//! The runner owns the backend and the sequence state. It takes chunks of tokens of several sequences, makes room
//! for them, runs the stages in order and hands out the logits of the rows that want them. It decides nothing about
//! what to run; that is the scheduler's. A pass that fails leaves every sequence as long as it was.

use crate::error::{Error, Result};
use crate::hal::{Backend, Batch, Bindings, KvLayout, ProgramId, Row, WeightId};
use crate::kv::{Kv, SeqId};
use crate::lower::{LOGITS, Lowered, RESIDUAL};

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

struct BoundStage {
    name: String,
    program: ProgramId,
    bindings: Bindings,
}

/// A loaded model.
pub struct Runner {
    backend: Box<dyn Backend>,
    stages: Vec<BoundStage>,
    kv: Kv,
    width: usize,
    vocab: usize,
    max_rows: usize,
    max_outputs: usize,
    context: u32,
    /// Of the last pass.
    logits: Vec<f32>,
}

impl Runner {
    #[expect(clippy::too_many_arguments, reason = "called once, by the loader")]
    pub(super) fn new(
        backend: Box<dyn Backend>,
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
        };
        Runner {
            backend,
            stages: lowered.stages.iter().map(bind).collect(),
            kv: Kv::new(layout),
            width: lowered.carries[RESIDUAL.0 as usize].width,
            vocab: lowered.vocab(),
            max_rows,
            max_outputs,
            context,
            logits: Vec::with_capacity(max_outputs * lowered.vocab()),
        }
    }

    /// The backend's own words.
    pub fn description(&self) -> String {
        self.backend.description()
    }

    /// Sequence state, to create, fork, restore and release sequences.
    pub fn kv(&mut self) -> &mut Kv {
        &mut self.kv
    }

    /// Most rows of a pass.
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Most rows of a pass whose logits are wanted.
    pub fn max_outputs(&self) -> usize {
        self.max_outputs
    }

    /// Positions of one sequence.
    pub fn context(&self) -> u32 {
        self.context
    }

    /// Width of the logits.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Runs one pass. Afterwards `logits` gives the wanted rows, in order of the chunks.
    ///
    /// # Errors
    /// `Limit` when the sequence state is full; `Engine` when the device failed or a layer gave NaN or infinity,
    /// naming the layer.
    pub fn run(&mut self, chunks: &[Chunk]) -> Result<()> {
        let mut rows = vec![];
        for (i, c) in chunks.iter().enumerate() {
            self.kv.extend(c.seq, c.tokens.len() as u32, &mut *self.backend)?;
            let first = self.kv.len(c.seq);
            for (j, &token) in c.tokens.iter().enumerate() {
                let output = match c.outputs {
                    Outputs::None => false,
                    Outputs::Last => j + 1 == c.tokens.len(),
                    Outputs::All => true,
                };
                rows.push(Row { token, seq: i as u32, pos: first + j as u32, output });
            }
        }
        let tables: Vec<&[Vec<u32>]> = chunks.iter().map(|c| self.kv.tables(c.seq)).collect();
        let batch = Batch { rows: &rows, tables: &tables };
        assert!(rows.len() <= self.max_rows && batch.outputs() <= self.max_outputs, "the scheduler keeps the bounds");
        for s in &self.stages {
            self.backend.launch(s.program, &s.bindings, &batch)?;
        }
        self.logits.resize(batch.outputs() * self.vocab, 0.0);
        self.backend.read(LOGITS, &mut self.logits);
        if self.logits.iter().any(|x| !x.is_finite()) {
            return Err(blame(&mut *self.backend, &self.stages, &batch, self.width));
        }
        chunks.iter().for_each(|c| self.kv.commit(c.seq, c.tokens.len() as u32));
        Ok(())
    }

    /// The logits of the last pass, `[outputs, vocab]`. A sampler may change them in place.
    pub fn logits(&mut self) -> &mut [f32] {
        &mut self.logits
    }
}

/// Runs the pass again, stage by stage, to name the first whose output is not finite.
fn blame(backend: &mut dyn Backend, stages: &[BoundStage], batch: &Batch, width: usize) -> Error {
    let mut residual = vec![0.0; batch.rows.len() * width];
    for s in stages {
        if let Err(e) = backend.launch(s.program, &s.bindings, batch) {
            return e;
        }
        backend.read(RESIDUAL, &mut residual);
        if residual.iter().any(|x| !x.is_finite()) {
            let problem = "gave NaN or infinity; the file's weights are damaged or overflow";
            return Error::Engine(format!("{} {problem}", s.name));
        }
    }
    Error::Engine("the logits are NaN or infinite; the output weights are damaged or overflow".into())
}
