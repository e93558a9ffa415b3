//! The targets, one to a file.

pub mod detect;
pub mod frames;
pub mod manifests;
pub mod path;
pub mod request;
pub mod response;
pub mod routes;
pub mod session;
