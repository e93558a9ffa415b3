//! What is decided about a request, apart from any socket: to which endpoint it goes, whether it may, and by which word its end
//! is known. Pure: time and chance are handed in, nothing here does I/O.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod flag;
pub mod limit;
pub mod session;
