//! Stop strings, with hold-back.
//!
//! Text arrives in pieces of any size; a stop string may span several. The filter passes on everything except the
//! longest end that may still become a stop string. The text ends before the first stop string to be complete; of
//! several complete at the same byte, the longest counts. So what comes out does not depend on how the text was cut
//! into pieces. Each stop string is followed by its own Knuth-Morris-Pratt automaton: linear time, whatever the text.
//!
//! Bytes suffice: a stop string begins at a character, so in valid UTF-8 every match and every held end does too.

use crate::error::{Error, Result};

/// Most stop strings of an answer: a request's, and those of the model's chat template.
pub const MAX_STOPS: usize = 128;
/// Most bytes of a stop string.
pub const MAX_BYTES: usize = 4096;

/// Cuts a stream of text at the first stop string.
#[derive(Debug)]
pub struct StopFilter {
    stops: Vec<Stop>,
    held: String,
    finished: Option<usize>,
}

#[derive(Debug)]
struct Stop {
    text: String,
    /// For each prefix (by its length - 1), the length of its longest proper prefix that is also its suffix.
    borders: Vec<usize>,
    matched: usize,
}

impl Stop {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut borders = vec![0; bytes.len()];
        let mut k = 0;
        for i in 1..bytes.len() {
            while k > 0 && bytes[k] != bytes[i] {
                k = borders[k - 1];
            }
            k += usize::from(bytes[k] == bytes[i]);
            borders[i] = k;
        }
        Stop { text, borders, matched: 0 }
    }

    /// Takes a byte; returns whether the stop string is complete.
    fn step(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += usize::from(bytes[self.matched] == byte);
        self.matched == bytes.len()
    }
}

impl StopFilter {
    /// A filter for these stop strings; with none, everything passes.
    ///
    /// # Errors
    /// `Field` for an empty stop string, one longer than 4096 bytes, or more than 128.
    pub fn new(stops: Vec<String>) -> Result<Self> {
        if stops.len() > MAX_STOPS {
            let problem = format!("has {} texts; at most {MAX_STOPS} are allowed", stops.len());
            return Err(Error::Field { field: "stop".into(), problem });
        }
        for (i, stop) in stops.iter().enumerate() {
            if stop.is_empty() || stop.len() > MAX_BYTES {
                let problem = format!("has {} bytes; it must have 1 to {MAX_BYTES}", stop.len());
                return Err(Error::Field { field: format!("stop[{i}]"), problem });
            }
        }
        Ok(StopFilter { stops: stops.into_iter().map(Stop::new).collect(), held: String::new(), finished: None })
    }

    /// Takes a piece of text and returns what can be passed on: nothing after a stop string.
    pub fn push(&mut self, text: &str) -> String {
        if self.finished.is_some() {
            return String::new();
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (i, byte) in text.bytes().enumerate() {
            // All automata take the byte, also when one is complete: the longest counts.
            let step = |(s, stop): (usize, &mut Stop)| stop.step(byte).then_some((stop.text.len(), s));
            if let Some((len, s)) = self.stops.iter_mut().enumerate().filter_map(step).max() {
                self.finished = Some(s);
                let mut out = std::mem::take(&mut self.held);
                out.truncate(before + i + 1 - len);
                return out;
            }
        }
        let keep = self.stops.iter().map(|s| s.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// The stop string that ended the text.
    pub fn finished(&self) -> Option<&str> {
        self.finished.map(|s| self.stops[s].text.as_str())
    }

    /// The text ends here for another reason: returns what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(stops: &[&str]) -> StopFilter {
        StopFilter::new(stops.iter().map(|s| s.to_string()).collect()).unwrap()
    }

    /// By the definition: try every end, in order.
    fn naive(text: &str, stops: &[String]) -> (String, bool) {
        for end in 0..=text.len() {
            let ends = |s: &&String| text.as_bytes()[..end].ends_with(s.as_bytes());
            if let Some(stop) = stops.iter().filter(ends).max_by_key(|s| s.len()) {
                return (text[..end - stop.len()].to_string(), true);
            }
        }
        (text.to_string(), false)
    }

    #[test]
    fn a_prefix_is_held_until_it_is_decided() {
        let mut f = filter(&["<end>"]);
        assert_eq!(f.push("one <e"), "one ");
        assert_eq!(f.push("nd two <en"), "<end two ");
        assert_eq!(f.push("d> three"), "");
        assert_eq!(f.finished(), Some("<end>"));
        assert_eq!((f.push("more"), f.finish()), (String::new(), String::new()));
    }

    #[test]
    fn what_was_held_comes_out_at_the_end() {
        let mut f = filter(&["\n\n", "été"]);
        assert_eq!(f.push("a\nét"), "a\n");
        assert_eq!((f.finish().as_str(), f.finished()), ("ét", None));
    }

    #[test]
    fn overlapping_stops_are_decided_by_the_first_end() {
        let mut f = filter(&["abcd", "bc"]);
        assert_eq!(f.push("xabcd"), "xa");
        assert_eq!(f.finished(), Some("bc"));
        let mut f = filter(&["c", "abc", "bc"]);
        assert_eq!(f.push("xabc"), "x");
        assert_eq!(f.finished(), Some("abc"));
        let mut f = filter(&["aab"]);
        assert_eq!(f.push("aaaaab!"), "aaa");
    }

    #[test]
    fn bad_stop_strings_are_refused() {
        for stops in [vec![String::new()], vec!["x".repeat(MAX_BYTES + 1)], vec!["x".into(); MAX_STOPS + 1]] {
            assert!(matches!(StopFilter::new(stops), Err(Error::Field { .. })));
        }
        assert_eq!(filter(&[]).push("all passes"), "all passes");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn agrees_with_naive_search(
            stops in prop::collection::vec("[abé😀]{1,4}", 0..4),
            pieces in prop::collection::vec("[abé😀]{0,5}", 0..12),
        ) {
            let (want, stopped) = naive(&pieces.concat(), &stops);
            let mut f = StopFilter::new(stops).unwrap();
            let mut got = String::new();
            for piece in &pieces {
                got += &f.push(piece);
                prop_assert!(want.starts_with(&got), "{:?} came out, {:?} is right", got, want);
            }
            got += &f.finish();
            prop_assert_eq!(got, want);
            prop_assert_eq!(f.finished().is_some(), stopped);
        }
    }
}
