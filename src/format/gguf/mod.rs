//! GGUF, versions 2 and 3 (specification: `docs/gguf.md` of the ggml project).
