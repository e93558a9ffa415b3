//! What filters do to heads, and what the agent answers by itself. Pure functions.

mod cors;
mod fields;
mod grpc;
mod redirect;
mod rewrite;

pub use cors::{CorsAnswer, cors_answer, cors_fields};
pub use fields::{is_editable, request_fields, response_fields};
pub use grpc::{Cause, answer};
pub use redirect::redirect;
pub use rewrite::{replaced_prefix, rewrite};
