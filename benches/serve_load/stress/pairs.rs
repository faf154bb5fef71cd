//! Times beside the same client's in a quieter minute, in turn: on a machine that others use too one run says little.

use super::{Row, ms};
use crate::load::Summary;
use serde_json::{Value, json};
use std::time::Duration;

/// Runs in turn.
pub const PAIRS: usize = 5;

/// A run in quiet and the one behind it that is not.
pub struct Pair {
    pub quiet: Summary,
    pub loaded: Summary,
}

/// How much longer both p99s of the loaded runs are; the median of the pairs counts.
pub fn slower(pairs: &[Pair], whose: &str, most: f64) -> [Row; 2] {
    [
        ratio(pairs, &format!("first token of {whose}, p99"), most, |s| s.first.p99),
        ratio(pairs, &format!("between tokens of {whose}, p99"), most, |s| s.between.p99),
    ]
}

fn ratio(pairs: &[Pair], what: &str, most: f64, of: fn(&Summary) -> Duration) -> Row {
    let mut all: Vec<(f64, &Pair)> =
        pairs.iter().map(|p| (of(&p.loaded).as_secs_f64() / of(&p.quiet).as_secs_f64(), p)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (median, pair) = &all[all.len() / 2];
    let (least, longest) = (all[0].0, all[all.len() - 1].0);
    let told = format!(
        "{median:.2} times ({least:.2} to {longest:.2} in {} pairs), as {} against {}",
        all.len(),
        ms(of(&pair.loaded)),
        ms(of(&pair.quiet))
    );
    Row::soft(what, told, format!("<= {most} times"), *median <= most)
}

/// All that was measured.
pub fn json(pairs: &[Pair]) -> Value {
    pairs.iter().map(|p| json!({ "quiet": p.quiet.json(), "loaded": p.loaded.json() })).collect()
}

/// Nobody's answer is wrong, and none was answered with 5xx; or the first that was.
pub fn unsound<'a>(seen: impl IntoIterator<Item = &'a Summary>) -> Option<String> {
    seen.into_iter().find_map(|s| match s.wrong.first() {
        Some(wrong) => Some(format!("{} wrong, as {wrong}", s.all_wrong)),
        None => (s.failed() > 0).then(|| format!("{} times 5xx: {:?}", s.failed(), s.statuses)),
    })
}
