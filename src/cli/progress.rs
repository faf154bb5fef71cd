//! Progress bars, on stderr and only at a terminal.

use indicatif::{ProgressBar, ProgressStyle};

fn bar(what: &str, total: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the templates of this file are valid");
    ProgressBar::new(total).with_style(style.progress_chars("━╸─")).with_message(what.to_string())
}

/// Bytes done of `total`, with the rate. Clears itself when it is dropped or finished with `finish_and_clear`.
pub fn bytes(what: &str, total: u64) -> ProgressBar {
    bar(what, total, "{msg} {bar:32} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}")
}

/// Steps done of `total`; what the message says goes at the end.
pub fn steps(what: &str, total: u64) -> ProgressBar {
    let template = format!("{what} {{pos}} of {{len}} {{bar:32}} {{eta}} left{{msg}}");
    bar("", total, &template)
}
