//! What Gateway API asks of a mesh, in our words: routes as users write them, a running agent, and programs in pods. And what our own
//! `TrafficPolicy` adds.

mod answer;
mod basics;
mod changes;
mod clients;
mod collector;
mod filters;
mod grpc;
mod istio;
mod matching;
mod mesh;
mod opaque;
mod patience;
mod policies;
mod secure;
mod seen;
mod shared;
mod weights;
mod wrapped;
