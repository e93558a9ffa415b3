//! Where backend references lead.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::{Named, parents};
use crate::config::gateway::RawRoute;
use crate::l7::route::AppProtocol;
use crate::model::balanced::PortId;
use crate::model::route::{
    Backend, BackendTarget, BadRef, Filter, HeaderMatch, RouteKind, Rule, Rules,
};
use crate::model::service::{ServiceKind, ServiceName};
use crate::model::traffic::BackendTlsPolicies;

/// A reference that leads nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bad {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Returns every service that a route names.
pub(super) fn services(raw: &RawRoute) -> BTreeSet<ServiceName> {
    let mut found: BTreeSet<ServiceName> = parents::services(raw).collect();
    let mut rules = raw.rules.clone();
    each(&mut rules, &mut |target| {
        if let BackendTarget::Port(id) = target {
            found.insert(id.service.clone());
        }
    });
    found
}

/// Returns the rules with each reference checked, and adds those that lead nowhere.
pub(super) fn resolved(
    raw: &RawRoute,
    services: Named<'_>,
    tls: &BackendTlsPolicies,
    bad: &mut Vec<Bad>,
) -> Rules {
    let mut rules = raw.rules.clone();
    let mut note = |reason: &'static str, message: String| {
        let one = Bad { reason, message };
        if !bad.contains(&one) {
            bad.push(one);
        }
    };
    each(&mut rules, &mut |target| {
        if let BackendTarget::Port(id) = target
            && let Err((reason, why)) = check(raw.name.kind, id, services, tls)
        {
            *target = BackendTarget::Invalid(reason, why);
        }
        if let BackendTarget::Invalid(reason, why) = target {
            note(reason.word(), why.clone());
        }
    });
    each_filter(&mut rules, &mut |filter| {
        if let Filter::Invalid(why) = filter {
            note("InvalidKind", why.clone());
        }
    });
    rules
}

/// Fields that frame a message or belong to one connection: no match ever sees them.
const UNSEEN: [&str; 7] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// Returns the matches that nothing ever fits, in words.
pub(super) fn unseen(rules: &Rules) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |index: usize, headers: &[HeaderMatch]| {
        let names = headers.iter().map(|header| header.name.as_str());
        for name in names.filter(|name| UNSEEN.contains(name)) {
            let text = format!("a match of rules[{index}] on `{name}`, which none ever sees");
            if !found.contains(&text) {
                found.push(text);
            }
        }
    };
    match rules {
        Rules::Http(rules) => {
            for rule in rules {
                let all = rule.matches.iter();
                all.for_each(|it| note(rule.index, &it.headers));
            }
        }
        Rules::Grpc(rules) => {
            for rule in rules {
                let all = rule.matches.iter();
                all.for_each(|it| note(rule.index, &it.headers));
            }
        }
        Rules::Tls(..) | Rules::Opaque(_) => {}
    }
    found
}

/// Calls `with` for each reference: backends, and whom requests are mirrored to.
fn each(rules: &mut Rules, with: &mut dyn FnMut(&mut BackendTarget)) {
    each_backend(rules, &mut |backend| with(&mut backend.to));
    each_filter(rules, &mut |filter| {
        if let Filter::Mirror(mirror) = filter {
            with(&mut mirror.to);
        }
    });
}

fn each_backend(rules: &mut Rules, with: &mut dyn FnMut(&mut Backend)) {
    match rules {
        Rules::Http(rules) => {
            let backends = rules.iter_mut().flat_map(|rule| &mut rule.backends);
            backends.for_each(with);
        }
        Rules::Grpc(rules) => {
            let backends = rules.iter_mut().flat_map(|rule| &mut rule.backends);
            backends.for_each(with);
        }
        Rules::Tls(_, backends) | Rules::Opaque(backends) => backends.iter_mut().for_each(with),
    }
}

fn each_filter(rules: &mut Rules, with: &mut dyn FnMut(&mut Filter)) {
    fn of<M>(rule: &mut Rule<M>, with: &mut dyn FnMut(&mut Filter)) {
        let of_backends = rule.backends.iter_mut().flat_map(|it| &mut it.filters);
        rule.filters.iter_mut().chain(of_backends).for_each(with);
    }
    match rules {
        Rules::Http(rules) => rules.iter_mut().for_each(|rule| of(rule, with)),
        Rules::Grpc(rules) => rules.iter_mut().for_each(|rule| of(rule, with)),
        Rules::Tls(..) | Rules::Opaque(_) => {}
    }
}

/// Returns why nobody answers at a port of a service.
fn check(
    kind: RouteKind,
    id: &PortId,
    services: Named<'_>,
    tls: &BackendTlsPolicies,
) -> Result<(), (BadRef, String)> {
    let PortId {
        service: name,
        port,
        protocol,
    } = id;
    let Some(service) = services.get(name) else {
        let why = match services.is_all {
            true => super::missing(name),
            // Gateway API wants it to be said to be wrong all the same.
            false => super::unseen(name),
        };
        return Err((BadRef::BackendNotFound, why));
    };
    if let ServiceKind::ExternalName(_) = service.kind {
        let why = format!("service {name} is another name, without endpoints");
        return Err((BadRef::InvalidKind, why));
    }
    let mut ports = service.ports.iter();
    let found = ports.find(|it| (it.number, it.protocol) == (*port, *protocol));
    let Some(found) = found else {
        let why = format!("service {name} has no port {port}/{}", protocol.word());
        return Err((BadRef::BackendNotFound, why));
    };
    let word = found.app_protocol.as_deref().unwrap_or_default();
    let speaks = AppProtocol::of_word(word);
    let is_wrong = match kind {
        RouteKind::Http | RouteKind::Grpc => match speaks {
            Some(AppProtocol::Tls) => !tls.contains_key(id),
            Some(AppProtocol::Tcp) => true,
            Some(AppProtocol::Http) => kind == RouteKind::Grpc && word.ends_with("/ws"),
            _ => false,
        },
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => false,
    };
    if is_wrong {
        let why = format!(
            "port {port} of service {name} speaks `{word}`, which a {} cannot use",
            kind.word()
        );
        return Err((BadRef::UnsupportedProtocol, why));
    }
    Ok(())
}
