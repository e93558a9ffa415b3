//! Services whose routes need the agent, as their clients and backends see them: real programs on both sides.

mod bulk;
mod chaos;
mod clients;
mod grpc;
mod harm;
mod many;
mod scene;
mod websocket;
