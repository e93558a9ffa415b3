//! What the kernel programs and the agent share: the layout of every map, the closed enums with their words, and the
//! pure decisions that both sides take, so that they cannot disagree.
//!
//! No I/O, no allocation, no kernel helper. A change of any layout here raises [`ABI_VERSION`].

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod addr;
pub mod balance;
pub mod behaviour;
pub mod close;
mod enums;
pub mod flow;
pub mod handover;
pub mod histogram;
pub mod history;
pub mod limits;
pub mod listener;
pub mod pair;
pub mod path;
pub mod policy;
pub mod reason;
pub mod redirect;
pub mod service;
pub mod sock;
pub mod stats;
pub mod workload;

/// Version of every layout in this crate; part of the directory that maps are pinned in.
///
/// An agent adopts pinned maps of its own version only.
pub const ABI_VERSION: u32 = 7;

/// Marks a shared type as plain bytes for user space, where it is read from and written to maps.
///
/// Implies that every bit pattern is valid and that there is no padding; `bytemuck` checks both when it derives.
#[cfg(feature = "user")]
pub trait Shared: bytemuck::Pod {}
#[cfg(feature = "user")]
impl<T: bytemuck::Pod> Shared for T {}
