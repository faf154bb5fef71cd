//! The table of settings, in the order in which `air config` shows them.

use super::{Default, Kind, Setting};

/// Formats of keys and values in the sequence state.
const STATE_TYPES: Kind = Kind::OneOf(&["f32", "f16", "q8_0", "q4_0"]);

/// Every setting of air.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "model.path",
        flag: "model",
        short: Some('m'),
        env: "AIR_MODEL_PATH",
        default: Default::Unset("the embedded demo model"),
        kind: Kind::Text,
        value: "FILE",
        help: "GGUF file of the model (the first part, if it is split)",
    },
    Setting {
        key: "model.ctx-size",
        flag: "ctx-size",
        short: Some('c'),
        env: "AIR_CTX_SIZE",
        default: Default::Unset("the model's, as far as memory allows"),
        kind: Kind::Integer(1, u32::MAX as i128),
        value: "N",
        help: "Positions of the context: prompt and answer together",
    },
    Setting {
        key: "cpu.threads",
        flag: "threads",
        short: None,
        env: "AIR_THREADS",
        default: Default::Unset("the cores that the machine and its cgroup give"),
        kind: Kind::Integer(1, 1024),
        value: "N",
        help: "Threads that compute",
    },
    Setting {
        key: "kv.type",
        flag: "kv-type",
        short: None,
        env: "AIR_KV_TYPE",
        default: Default::Unset("f16; f32 with --exact"),
        kind: STATE_TYPES,
        value: "TYPE",
        help: "Format of keys and values in the context: f32, f16, q8_0 or q4_0",
    },
    Setting {
        key: "kv.k-type",
        flag: "k-type",
        short: None,
        env: "AIR_K_TYPE",
        default: Default::Unset("as --kv-type"),
        kind: STATE_TYPES,
        value: "TYPE",
        help: "Format of the keys, where it differs",
    },
    Setting {
        key: "kv.v-type",
        flag: "v-type",
        short: None,
        env: "AIR_V_TYPE",
        default: Default::Unset("as --kv-type"),
        kind: STATE_TYPES,
        value: "TYPE",
        help: "Format of the values, where it differs",
    },
];
