//! Settles who of several objects gets what they all claim.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Version;
use super::choice::Kept;
use super::token::{self, Token};
use crate::config::key::Key;
use crate::config::problem::{Finding, Problem};

/// Which version of an object counts, while that is being decided.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) before: Option<Arc<Version>>,
    pub(super) now: Option<Arc<Version>>,
    pub(super) kept: Option<Kept>,
    /// Whether it is refused because there are too many.
    pub(super) beyond: bool,
    /// Problems that follow only from several objects together.
    pub(super) problems: Vec<Problem>,
    /// What the version before claims, and the one that the files hold.
    pub(super) tokens: Vec<Token>,
}

impl Draft {
    /// Returns a draft without a version that counts.
    pub(super) fn of(before: Option<Arc<Version>>) -> Self {
        Self {
            before,
            now: None,
            kept: None,
            beyond: false,
            problems: Vec::new(),
            tokens: Vec::new(),
        }
    }

    /// Notes what its versions claim.
    pub(super) fn claim(&mut self) {
        for version in [&self.now, &self.before].into_iter().flatten() {
            for token in token::of(version) {
                if !self.tokens.contains(&token) {
                    self.tokens.push(token);
                }
            }
        }
    }

    /// Lets the version before stay in force.
    pub(super) fn keep(&mut self, before: Arc<Version>, kept: Kept) {
        self.now = Some(before);
        self.kept = Some(kept);
    }

    fn had(&self, token: Token) -> bool {
        let before = self.before.as_ref();
        before.is_some_and(|before| token::of(before).contains(&token))
    }
}

type Drafts = BTreeMap<Arc<Key>, Draft>;
type Keyed = (Arc<Key>, Arc<Version>);

/// Falls back to the last valid version of each object that claims what another has, until no two claim the same.
///
/// Ends because every round takes a version away, and a last valid version loses to nobody: versions that were in force
/// together claim nothing twice, and who has something in force wins it.
pub(super) fn settle(drafts: &mut Drafts) {
    let wanted = drafts.iter();
    let wanted = wanted.filter_map(|(key, draft)| Some((key.clone(), draft.now.clone()?)));
    let wanted: Vec<Keyed> = wanted.collect();
    let mut reasons = settle_claims(drafts);
    explain(drafts, wanted, &mut reasons);
}

/// Notes for each object that gave way what of its claims others have now: the same words however it came to that.
fn explain(drafts: &mut Drafts, wanted: Vec<Keyed>, reasons: &mut BTreeMap<Arc<Key>, Problem>) {
    if reasons.is_empty() {
        return;
    }
    let mut owners: HashMap<Token, Vec<Keyed>> = HashMap::new();
    for (key, draft) in &*drafts {
        let Some(now) = &draft.now else { continue };
        for token in token::of(now) {
            let of_token = owners.entry(token).or_default();
            of_token.push((key.clone(), now.clone()));
        }
    }
    for (key, version) in wanted {
        let Some(reason) = reasons.remove(&key) else {
            continue;
        };
        let mut problems = Vec::new();
        for token in token::of(&version) {
            let of_token = owners.get(&token).into_iter().flatten();
            let other = of_token
                .into_iter()
                .find(|(other, _)| *other != key && !token.is_shared(key.kind, other.kind));
            let clash = other
                .map(|(owner, theirs)| clash(token, (owner, theirs), (&key, &version)).problem);
            problems.extend(clash);
        }
        if problems.is_empty() {
            problems.push(reason);
        }
        if let Some(draft) = drafts.get_mut(&key) {
            draft.problems.append(&mut problems);
        }
    }
}

/// Returns why each object that gave way did so first.
fn settle_claims(drafts: &mut Drafts) -> BTreeMap<Arc<Key>, Problem> {
    let mut reasons = BTreeMap::new();
    loop {
        let clashes = clashes(drafts);
        let losers: BTreeSet<Arc<Key>> = clashes.iter().map(|clash| clash.loser.clone()).collect();
        let (mut sure, open): (Vec<_>, Vec<_>) = clashes
            .into_iter()
            .partition(|clash| !losers.contains(&clash.winner));
        if sure.is_empty() {
            // Nothing left, or a ring in which each has what the next one wants: begin anywhere.
            sure.extend(open.into_iter().next());
        }
        if sure.is_empty() {
            return reasons;
        }
        for Clash { loser, problem, .. } in sure {
            give_way(drafts, &loser);
            reasons.entry(loser).or_insert(problem);
        }
    }
}

fn give_way(drafts: &mut Drafts, loser: &Key) {
    let Some(draft) = drafts.get_mut(loser) else {
        return;
    };
    match (&draft.now, draft.before.clone()) {
        // It gave way already, for another thing that it claims.
        (None, _) => {}
        (Some(now), Some(before)) if *now == before => {}
        (Some(_), Some(before)) => draft.keep(before, Kept::Invalid),
        (Some(_), None) => draft.now = None,
    }
}

/// Two objects that claim the same.
struct Clash {
    winner: Arc<Key>,
    loser: Arc<Key>,
    problem: Problem,
}

/// Returns every object that must give way to another as things stand, and what to say.
fn clashes(drafts: &Drafts) -> Vec<Clash> {
    let claims = |(key, draft): (_, &Draft)| Some((key, draft.now.clone()?));
    let mut claimants: Vec<(&Arc<Key>, Arc<Version>)> = drafts.iter().filter_map(claims).collect();
    claimants.sort_by(|(_, one), (_, other)| {
        let order = |version: &Version| {
            let place = &version.place;
            (place.file.clone(), place.document, place.line)
        };
        order(one).cmp(&order(other))
    });
    let mut clashes = Vec::new();
    let mut owners: HashMap<Token, usize> = HashMap::new();
    for (index, (key, version)) in claimants.iter().enumerate() {
        for token in token::of(version) {
            let Some(owner) = owners.get(&token).copied() else {
                owners.insert(token, index);
                continue;
            };
            let (owner_key, owner_version) = &claimants[owner];
            if owner == index {
                continue;
            }
            let takes_over = drafts[*key].had(token) && !drafts[*owner_key].had(token);
            if takes_over {
                owners.insert(token, index);
            }
            if token.is_shared(key.kind, owner_key.kind) {
                continue;
            }
            let mine = (*key, version);
            let theirs = (*owner_key, owner_version);
            clashes.push(match takes_over {
                true => clash(token, mine, theirs),
                false => clash(token, theirs, mine),
            });
        }
    }
    clashes
}

type Claimant<'c> = (&'c Arc<Key>, &'c Arc<Version>);

fn clash(token: Token, winner: Claimant<'_>, loser: Claimant<'_>) -> Clash {
    let (problem, help) = token::words(token, winner.0, winner.1);
    let (path, line) = token::place_of(loser.1, token);
    let finding = Finding::error(line, path, problem, help);
    Clash {
        winner: winner.0.clone(),
        loser: loser.0.clone(),
        problem: loser.1.place.problem(Some(loser.0), finding),
    }
}
