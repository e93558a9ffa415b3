//! A request for tests.

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;

use crate::l7::message::{RequestHead, Target};
use crate::l7::route::CompiledRule;
use crate::model::balanced::PortId;
use crate::model::route::{RouteKind, RouteName, Rule};
use crate::model::workload::WorkloadName;
use crate::telemetry::fake::service;
use crate::telemetry::http::record::{Client, Flags, Messages, RequestRecord, Times};
use crate::telemetry::http::request::Request;
use crate::telemetry::http::trace::SpanContext;

/// What a record is made from.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) client: Client,
    pub(crate) head: RequestHead,
    pub(crate) original: Option<(String, String)>,
    /// 0: none.
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u32>,
    pub(crate) flags: Flags,
    pub(crate) rule: Option<Arc<CompiledRule>>,
    pub(crate) destination: Option<Arc<PortId>>,
    pub(crate) workload: Option<Arc<WorkloadName>>,
    pub(crate) attempts: u32,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) messages: Option<Messages>,
    pub(crate) times: Times,
    pub(crate) span: Option<SpanContext>,
}

impl Default for Sample {
    /// A `GET` from `shop/web` to `shop/cart:80`, answered with 200 by `shop/cart-v2:80` after 1 ms.
    fn default() -> Self {
        Self {
            client: Client {
                workload: Arc::new(WorkloadName {
                    namespace: "shop".to_owned(),
                    name: "web".to_owned(),
                }),
                netns: 1,
                address: "10.0.0.1:40000".parse().unwrap(),
                port: Arc::new(service("shop", "cart", 80)),
                dialled: "10.96.0.1:80".parse().unwrap(),
            },
            head: RequestHead {
                authority: "cart.shop".to_owned(),
                target: Target::new("/items?id=\"7\"".to_owned()),
                ..RequestHead::default()
            },
            original: None,
            status: 200,
            grpc_status: None,
            flags: Flags::default(),
            rule: Some(rule("cart")),
            destination: Some(Arc::new(service("shop", "cart-v2", 80))),
            workload: None,
            attempts: 1,
            received: 10,
            sent: 2_000,
            messages: None,
            times: Times {
                agent_ns: 100_000,
                connect_ns: 200_000,
                upstream_ns: 600_000,
                transfer_ns: 100_000,
            },
            span: None,
        }
    }
}

/// Returns the first rule of a route in `shop`.
pub(crate) fn rule(name: &str) -> Arc<CompiledRule> {
    let route = Arc::new(RouteName {
        kind: RouteKind::Http,
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    });
    let rule: Rule<()> = Rule {
        index: 0,
        name: None,
        matches: vec![()],
        filters: vec![],
        backends: vec![],
        request_timeout: None,
        backend_timeout: None,
        retry: None,
        session: None,
    };
    Arc::new(CompiledRule::new(&route, &rule))
}

impl Sample {
    pub(crate) fn record(&self) -> RequestRecord<'_> {
        RequestRecord {
            client: &self.client,
            request: &self.head,
            original: self.original.as_ref(),
            status: StatusCode::from_u16(self.status).ok(),
            grpc_status: self.grpc_status,
            flags: self.flags,
            rule: self.rule.as_ref(),
            destination: self.destination.as_ref(),
            endpoint: "10.0.0.2:8080".parse().ok(),
            workload: self.workload.as_ref(),
            attempts: self.attempts,
            received: self.received,
            sent: self.sent,
            messages: self.messages,
            times: self.times,
            span: self.span,
        }
    }

    pub(crate) fn request(&self) -> Request {
        Request::of(&self.record(), Timestamp::UNIX_EPOCH)
    }
}
