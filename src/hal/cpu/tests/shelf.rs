//! Weights cut into panels that lie on a shelf in memory, for tests of homes.

use super::*;
use crate::hal::Wanted;

/// Panels in memory.
#[derive(Debug, Default)]
pub(super) struct Shelf(pub Vec<Vec<u8>>);

impl Supply for Shelf {
    /// Turns the order round, which must change no bits.
    fn want(&self, panels: &mut [Wanted]) {
        panels.reverse();
    }
    fn panel(&self, number: u32, _: u32, f: &mut dyn FnMut(&[u8])) -> Result<()> {
        f(self.0.get(number as usize).ok_or(Error::Cancelled)?);
        Ok(())
    }
    fn bytes(&self, number: u32, at: usize, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.0.get(number as usize).ok_or(Error::Cancelled)?[at..at + out.len()]);
        Ok(())
    }
}

impl Shelf {
    /// Cuts a tensor: whole experts in memory, or panels of one to three groups whose homes take turns.
    pub fn cut(&mut self, t: &Tensor, mixed: bool) -> Vec<Panel> {
        let mut panels: Vec<Panel> = vec![];
        let away = if t.experts > 1 { Home::Cache } else { Home::Stream };
        for expert in 0..t.experts {
            let mut row = 0;
            while row < t.rows {
                let n = panels.len();
                let (len, home) = match mixed && t.matrix {
                    true => ((n % 3 + 1) * 16, [away, Home::Memory, Home::Memory, away][n % 4]),
                    false => (t.rows, Home::Memory),
                };
                let rows = expert * t.rows + row..expert * t.rows + (row + len).min(t.rows);
                let row_bytes = t.format.row_bytes(t.cols);
                let number = self.0.len() as u32;
                self.0.push(t.bytes[rows.start * row_bytes..rows.end * row_bytes].to_vec());
                panels.push(Panel { number, rows, home });
                row += len;
            }
        }
        panels
    }
}
