//! Data threads from start to drain.
