//! Settings: one table gives flag, environment variable, file key, default and help.
