//! How many rows of prompts ride on a pass in which somebody generates.
//!
//! A pass costs what its weights cost to carry, and then so much for each row: who generates waits for the prompts of
//! others. So prompts may at most double the pass, or take a tenth of a second where that is more; a tile of rows always
//! rides along, or a slow machine would never read them. Both costs are measured on the passes themselves, so that it
//! makes no difference where the weights come from: of a pass that waits for the drive a second, a second's worth of rows
//! rides along. Only time depends on it, no bit does.

/// Seconds that prompts may take of a pass, however short it is without them.
const LEAST: f64 = 0.1;
/// Rows of prompts while nothing is known yet.
const FEW: usize = 64;
/// Rows of prompts at least: fewer cost almost as much as these.
const TILE: usize = 16;
/// Weight of a new measurement.
const NEW: f64 = 0.3;

/// Measured costs of passes, in seconds.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pace {
    /// Of a pass without prompts.
    plain: Option<f64>,
    /// Of a further row of a prompt.
    row: Option<f64>,
}

impl Pace {
    /// A pass with `prompts` rows of prompts took so many seconds.
    pub fn took(&mut self, prompts: usize, seconds: f64) {
        let blend = |old: Option<f64>, new: f64| Some(old.map_or(new, |old| old + NEW * (new - old)));
        match prompts {
            0 => self.plain = blend(self.plain, seconds),
            // Fewer say little about the cost of one.
            n if n >= TILE => {
                let row = (seconds - self.plain.unwrap_or(0.0)).max(0.0) / n as f64;
                self.row = blend(self.row, row);
            }
            _ => {}
        }
    }

    /// Rows of prompts for a pass in which somebody generates.
    pub fn rows(&self) -> usize {
        match self.row {
            None => FEW,
            Some(row) => {
                let seconds = self.plain.unwrap_or(0.0).max(LEAST);
                // Saturates where a row costs nothing that can be measured.
                ((seconds / row) as usize).max(TILE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_at_most_double_a_pass() {
        let mut pace = Pace::default();
        assert_eq!(pace.rows(), FEW);
        for _ in 0..40 {
            pace.took(0, 1.0);
            pace.took(400, 1.4);
        }
        // A row costs a millisecond, a pass a second.
        assert!((990..=1010).contains(&pace.rows()), "{}", pace.rows());
        // Kept in memory it costs ten milliseconds: a tenth of a second may be taken all the same.
        for _ in 0..40 {
            pace.took(0, 0.01);
            pace.took(400, 0.41);
        }
        assert!((99..=101).contains(&pace.rows()), "{}", pace.rows());
        // A slow machine still gets on.
        pace.took(64, 100.0);
        assert_eq!(pace.rows(), TILE);
    }

    #[test]
    fn what_costs_nothing_is_not_bounded() {
        let mut pace = Pace::default();
        pace.took(100, 0.0);
        assert_eq!(pace.rows(), usize::MAX);
        pace.took(3, 9.0);
        assert_eq!(pace.rows(), usize::MAX, "three rows say nothing");
    }
}
