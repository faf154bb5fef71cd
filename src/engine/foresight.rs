//! Experts that are asked for before they are wanted, so that the drive does not rest while a layer attends.
//!
//! Where experts come from the drive, it has nothing to do between one layer's last expert and the next layer's choice.
//! The choice is known only behind the attention, but the layer's router can be asked at once, about the rows as they
//! come into the layer: the attention adds little to them. (Before the experts of the layer before are added, the same
//! router foresaw 38 to 77% in `scripts/moe_routing.py`, least in the first layers, and no earlier would the drive have
//! time.) Its answer is a guess for the stream; the routing is computed as ever, so no result depends on it.
//!
//! Only passes of few rows guess. Of many rows together nearly every expert is wanted, in whatever order, so the drive
//! has enough to do, and the product with the router, which here costs a tenth of a millisecond, is one for each row.

use super::pass::BoundStage;
use crate::error::Result;
use crate::hal::{Backend, Batch, Home};
use crate::lower::{EXPERT_IDS, Lowered, Stage};
use crate::plan::{Plan, Unit};
use crate::stream::Streamer;

/// Most rows of a pass that guesses: single tokens of some sequences, not a prompt.
const MOST_ROWS: usize = 8;

/// The guesses of a model, bound to its weights.
pub(super) struct Guesses {
    layers: Vec<Layer>,
    /// Experts of a row.
    used: usize,
    /// Reused: as a backend gives them, and a panel of each.
    ids: Vec<f32>,
    panels: Vec<u32>,
}

struct Layer {
    /// The stage before which it is asked.
    before: usize,
    stage: BoundStage,
    /// Its weights, as units of the plan.
    units: Vec<usize>,
    /// A panel of each expert.
    experts: Vec<u32>,
}

impl Guesses {
    /// Those of the layers whose experts come from a cache.
    pub fn new(lowered: &Lowered, plan: &Plan, units: &[Unit], bind: impl Fn(&Stage) -> BoundStage) -> Guesses {
        let layer = |g: &crate::lower::Guess| {
            let Unit { experts, rows, .. } = units[g.experts];
            let panels = &plan.panels[g.experts];
            // Panels stand in order and never cross experts.
            let of = |e: usize| panels[panels.partition_point(|p| p.rows.start < e * rows)].number;
            Layer {
                before: g.before,
                stage: bind(&g.stage),
                units: g.stage.weights.clone(),
                experts: (0..experts).map(of).collect(),
            }
        };
        // A device may keep all experts of some layers.
        let cached = |g: &&crate::lower::Guess| plan.panels[g.experts].iter().any(|p| p.home == Home::Cache);
        let layers: Vec<Layer> = lowered.guesses.iter().filter(cached).map(layer).collect();
        let used = if layers.is_empty() { 0 } else { lowered.carries[EXPERT_IDS.0 as usize].width };
        let most = MOST_ROWS * used;
        Guesses { layers, used, ids: Vec::with_capacity(most), panels: Vec::with_capacity(most) }
    }
}

/// The guesses of one pass.
pub(super) struct Foresight<'a> {
    guesses: &'a mut Guesses,
    plan: &'a Plan,
    /// The next layer to guess.
    next: usize,
}

impl<'a> Foresight<'a> {
    /// For a pass with so many rows and so many in a batch, if it is to guess: where some experts have no place.
    pub fn new(guesses: &'a mut Guesses, plan: &'a Plan, rows: usize, batch: usize) -> Option<Foresight<'a>> {
        let room = plan.cache.places >= plan.cache.experts.len();
        (rows <= MOST_ROWS.min(batch) && !room).then_some(Foresight { guesses, plan, next: 0 })
    }

    /// Before a stage: guesses what its layer will want, and tells the stream.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn before(&mut self, n: usize, backend: &mut dyn Backend, stream: &Streamer, batch: &Batch) -> Result<()> {
        let Guesses { layers, used, ids, panels } = &mut *self.guesses;
        let Some(layer) = layers.get(self.next).filter(|l| l.before == n) else { return Ok(()) };
        self.next += 1;
        // What is streamed comes once in a pass, for the routing.
        let kept = |&u: &usize| self.plan.panels[u].iter().all(|p| p.home == Home::Memory);
        if !layer.units.iter().all(kept) {
            return Ok(());
        }
        backend.launch(layer.stage.program, &layer.stage.bindings, batch)?;
        let rows = batch.rows.len();
        ids.resize(rows * *used, 0.0);
        backend.read(EXPERT_IDS, ids);
        panels.clear();
        // The first choices of all rows, then the second ones.
        let choices = (0..*used).flat_map(|j| (0..rows).map(move |r| (r, j)));
        panels.extend(choices.filter_map(|(r, j)| layer.experts.get(ids[r * *used + j] as usize)));
        stream.foresee(panels);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::residence;
    use crate::format::gguf;
    use crate::hal::{Bindings, ProgramId};
    use crate::plan::{Needs, Policy};

    /// What a device keeps of a model's experts is not asked for.
    #[test]
    fn only_layers_whose_experts_are_cached_are_guessed() {
        let families = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
        let catalogue = gguf::open(&families.join("qwen3moe-3of8.gguf")).unwrap();
        let lowered = crate::lower::lower(&crate::arch::spec(&catalogue).unwrap());
        let tensors: Vec<_> = lowered.weights.iter().map(|w| catalogue.tensor(&w.tensor).unwrap()).collect();
        let units = residence::units(&lowered, &tensors);
        let policy =
            Policy { budget: 64 << 20, block: 1 << 20, stream: true, stages: false, host: Some(1 << 30), beside: true };
        let mut plan = Plan::new(&units, Needs::default(), &policy).unwrap();
        let bind = |s: &Stage| BoundStage {
            name: s.name.clone(),
            program: ProgramId(0),
            bindings: Bindings { weights: vec![], layer: None },
            whole: false,
        };
        assert!(lowered.guesses.len() > 1);
        assert_eq!(Guesses::new(&lowered, &plan, &units, bind).layers.len(), 0);
        let last = lowered.guesses.last().unwrap();
        plan.panels[last.experts].iter_mut().for_each(|p| p.home = Home::Cache);
        let guesses = Guesses::new(&lowered, &plan, &units, bind);
        assert_eq!(guesses.layers.iter().map(|l| l.before).collect::<Vec<_>>(), [last.before]);
    }
}
