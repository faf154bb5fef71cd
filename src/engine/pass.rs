//! The stages of a pass, in order, each on all its rows.
//!
//! A pass of more rows than a batch has runs stage by stage, and each stage tile by tile, in order of position: what
//! a stage streams comes from the drive once for all of them, and a tile's attention finds the keys that the tiles
//! before it wrote in this very layer. Only the carries are as long as the pass. Rows do not depend on their
//! neighbours, so the bits are those of any other cut. Experts are wanted tile by tile: those that the cache has no
//! places for come again with each tile.

use super::foresight::Foresight;
use crate::error::{Error, Result};
use crate::hal::{Backend, Batch, Bindings, ProgramId, Row};
use crate::lower::RESIDUAL;
use crate::stream::Streamer;

/// A stage on the backend.
pub(super) struct BoundStage {
    /// For messages.
    pub name: String,
    pub program: ProgramId,
    pub bindings: Bindings,
    /// Whether it runs on all rows at once.
    pub whole: bool,
}

/// Hears how many launches of a pass are done, and how many it has; an error gives it up. Called between launches.
pub type Watch<'a> = dyn FnMut(usize, usize) -> Result<()> + 'a;

/// What one pass works on, and with.
pub(super) struct Pass<'a> {
    pub backend: &'a mut dyn Backend,
    pub stream: &'a Streamer,
    pub stages: &'a [BoundStage],
    pub rows: &'a [Row],
    pub tables: &'a [&'a [Vec<u32>]],
    /// Most rows of a launch, but for stages that run whole.
    pub tile: usize,
    /// What guesses experts, where they may come before they are wanted.
    pub foresight: Option<Foresight<'a>>,
}

impl Pass<'_> {
    /// Runs all stages; `outputs` says whether any logits are wanted.
    ///
    /// # Errors
    /// Those of the backend and of `watch`.
    pub fn run(&mut self, outputs: bool, watch: &mut Watch) -> Result<()> {
        self.stream.begin(outputs);
        let all = self.stages.iter().map(|s| self.rows.len().div_ceil(self.tile_of(s))).sum();
        let mut done = 0;
        for (n, stage) in self.stages.iter().enumerate() {
            if let Some(foresight) = &mut self.foresight {
                let batch = Batch { rows: self.rows, first: 0, tables: self.tables };
                foresight.before(n, self.backend, self.stream, &batch)?;
            }
            self.stage(stage, &mut || {
                done += 1;
                if done < all { watch(done, all) } else { Ok(()) }
            })?;
        }
        Ok(())
    }

    /// Runs the pass again, to name the first stage whose output is not finite. `width` is the residual stream's.
    pub fn blame(&mut self, outputs: bool, width: usize) -> Error {
        self.stream.begin(outputs);
        let mut residual = vec![0.0; self.rows.len() * width];
        for stage in self.stages {
            if let Err(e) = self.stage(stage, &mut || Ok(())) {
                return e;
            }
            self.backend.read(RESIDUAL, &mut residual);
            if residual.iter().any(|x| !x.is_finite()) {
                let problem = "gave NaN or infinity; the file's weights are damaged or overflow";
                return Error::Engine(format!("{} {problem}", stage.name));
            }
        }
        Error::Engine("the logits are NaN or infinite; the output weights are damaged or overflow".into())
    }

    fn tile_of(&self, stage: &BoundStage) -> usize {
        if stage.whole { self.rows.len().max(1) } else { self.tile }
    }

    /// Runs one stage; `launched` is called after each tile.
    fn stage(&mut self, stage: &BoundStage, launched: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let tile = self.tile_of(stage);
        for (n, rows) in self.rows.chunks(tile).enumerate() {
            let first = n * tile;
            if self.rows.len() > tile {
                self.stream.again(first + rows.len() < self.rows.len());
            }
            self.backend.launch(stage.program, &stage.bindings, &Batch { rows, first, tables: self.tables })?;
            launched()?;
        }
        Ok(())
    }
}
