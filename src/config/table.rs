//! The table of settings, in the order in which `air config` shows them.

use super::{Default, Kind, Setting};

/// Every setting of air.
pub const SETTINGS: &[Setting] = &[Setting {
    key: "model.path",
    flag: "model",
    short: Some('m'),
    env: "AIR_MODEL_PATH",
    default: Default::Unset("the embedded demo model"),
    kind: Kind::Text,
    value: "FILE",
    help: "GGUF file of the model (the first part, if it is split)",
}];
