//! What is wrong with the server.

use std::collections::BTreeSet;
use std::time::Duration;

/// What is wrong with the server, until the test says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Answers that the next requests get instead of their own: code and headers, and body.
    pub answers: Vec<Canned>,
    /// How many of the next writes find that somebody else was faster.
    pub conflicts: usize,
    /// Answers that the next writes get instead of their own.
    pub write_answers: Vec<Canned>,
    /// Resources, such as `pods`, that the client may not list or watch.
    pub forbidden: BTreeSet<String>,
    /// Resources whose definition has no status to write to.
    pub without_status: BTreeSet<String>,
    /// Whether the token is not accepted.
    pub unauthorized: bool,
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
        Self {
            code,
            retry_after,
            body: "the test says so\n".to_owned(),
        }
    }
}

impl Faults {
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
