//! What is wrong with the server.

use std::collections::BTreeSet;
use std::time::Duration;

use super::place::Place;

/// What is wrong with the server, until the test says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Answers that the next requests get instead of their own: code and headers, and body.
    pub answers: Vec<Canned>,
    /// How many of the next writes find that somebody else was faster.
    pub conflicts: usize,
    /// Answers that the next writes get instead of their own.
    pub write_answers: Vec<Canned>,
    /// What the client has no right to: resources, such as `pods`; some of them: `watch pods`, `pods in shop`, or `get pods in shop`.
    pub forbidden: BTreeSet<String>,
    /// Resources whose definition has no status to write to.
    pub without_status: BTreeSet<String>,
    /// Whether the token is not accepted.
    pub unauthorized: bool,
    /// Whether none is needed: kubectl sends it over TLS only.
    pub lets_everybody_in: bool,
    /// Whether lists are not streamed, as by servers before 1.32.
    pub no_streaming_lists: bool,
    /// Whether `sendInitialEvents` is overlooked, as by servers that do not know the word.
    pub overlooks_streaming_lists: bool,
    /// How bodies are cut.
    pub chunks: Chunks,
    /// After how many more bytes each watch that opens breaks off, without a last chunk.
    pub cut_after: Option<usize>,
    /// A line that each watch sends before anything else.
    pub noise: Option<String>,
    /// How many more times what is older is forgotten as soon as a page was sent that others follow.
    pub compacts_after_pages: u32,
    /// Seconds that the server's clock is ahead of ours.
    pub clock: i64,
}

/// An answer that has nothing to do with the question.
#[derive(Clone, Debug)]
pub struct Canned {
    /// Its code.
    pub code: u16,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// Its body.
    pub body: String,
}

impl Canned {
    fn new(code: u16, retry_after: Option<u64>) -> Self {
        let body = match code {
            429 => "Too many requests, please try again later.\n",
            _ => "the test says so\n",
        };
        Self {
            code,
            retry_after,
            body: body.to_owned(),
        }
    }
}

impl Faults {
    /// Returns whether the client has the right to do this.
    pub(super) fn allows(&self, verb: &str, place: &Place) -> bool {
        let resource = &place.kind.resource;
        let mut names = vec![resource.clone(), format!("{verb} {resource}")];
        if let Some(namespace) = &place.namespace {
            let within: Vec<String> = names
                .iter()
                .map(|it| format!("{it} in {namespace}"))
                .collect();
            names.extend(within);
        }
        !names.iter().any(|name| self.forbidden.contains(name))
    }

    /// Lets the next `count` requests fail with a code.
    pub fn fail(&mut self, count: usize, code: u16, retry_after: Option<u64>) {
        let canned = Canned::new(code, retry_after);
        self.answers.extend(std::iter::repeat_n(canned, count));
    }

    /// Lets the next `count` writes fail with a code.
    pub fn fail_writes(&mut self, count: usize, code: u16, retry_after: Option<u64>) {
        let canned = Canned::new(code, retry_after);
        self.write_answers
            .extend(std::iter::repeat_n(canned, count));
    }
}

/// How bodies are cut into chunks.
#[derive(Clone, Copy, Debug, Default)]
pub enum Chunks {
    /// One for each event.
    #[default]
    Whole,
    /// Of so many bytes, with a pause between them: an event comes in parts, and parts of two events together.
    Small(usize, Duration),
}
