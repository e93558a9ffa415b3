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

/// Falls back to the last valid version of each object that claims what another has, until no two claim the same.
///
/// Ends because every round takes a version away, and a last valid version loses to nobody: versions that were in force
/// together claim nothing twice, and who has something in force wins it.
pub(super) fn settle(drafts: &mut Drafts) {
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
            return;
        }
        for clash in sure {
            give_way(drafts, clash);
        }
    }
}

fn give_way(drafts: &mut Drafts, clash: Clash) {
    let Some(draft) = drafts.get_mut(&clash.loser) else {
        return;
    };
    draft.problems.push(clash.problem);
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
