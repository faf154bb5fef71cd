//! The ggml type numbers that air refuses, and why, so that the message can name what the file holds.

/// Name of a ggml type that air does not read, and the reason.
pub(super) fn reason(id: u32) -> Option<(&'static str, &'static str)> {
    REFUSED.iter().find(|r| r.0 == id).map(|r| (r.1, r.2))
}

const REMOVED: &str = "removed from ggml; convert the model again";
const ACTIVATION: &str = "a format of activations, not of weights";
const NOT_WEIGHTS: &str = "not a format of weights";
const NOT_YET: &str = "not read yet";

const REFUSED: &[(u32, &str, &str)] = &[
    (4, "Q4_2", REMOVED),
    (5, "Q4_3", REMOVED),
    (9, "Q8_1", ACTIVATION),
    (15, "Q8_K", ACTIVATION),
    (16, "IQ2_XXS", NOT_YET),
    (17, "IQ2_XS", NOT_YET),
    (18, "IQ3_XXS", NOT_YET),
    (19, "IQ1_S", NOT_YET),
    (21, "IQ3_S", NOT_YET),
    (22, "IQ2_S", NOT_YET),
    (24, "I8", NOT_WEIGHTS),
    (25, "I16", NOT_WEIGHTS),
    (26, "I32", NOT_WEIGHTS),
    (27, "I64", NOT_WEIGHTS),
    (28, "F64", NOT_WEIGHTS),
    (29, "IQ1_M", NOT_YET),
    (31, "Q4_0_4_4", REMOVED),
    (32, "Q4_0_4_8", REMOVED),
    (33, "Q4_0_8_8", REMOVED),
    (34, "TQ1_0", NOT_YET),
    (35, "TQ2_0", NOT_YET),
    (36, "IQ4_NL_4_4", REMOVED),
    (37, "IQ4_NL_4_8", REMOVED),
    (38, "IQ4_NL_8_8", REMOVED),
    (40, "NVFP4", NOT_YET),
    (41, "Q1_0", NOT_YET),
    (42, "Q2_0", NOT_YET),
];
