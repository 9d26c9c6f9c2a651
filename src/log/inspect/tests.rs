//! Tests of what is inside; those of the whole are in `tests/log_tool.rs`.
