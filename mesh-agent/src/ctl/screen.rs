//! Where text goes: how wide it is, whether it has colour, and what time it is there.

#![forbid(unsafe_code)]

use std::io::IsTerminal;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cli::ColorWhen;

/// Narrowest terminal that output is cut for; a narrower one wraps.
const NARROWEST: usize = 40;

/// Where text goes.
#[derive(Clone, Debug)]
pub struct Screen {
    /// Columns of the terminal; `None` for a pipe or a file, where nothing has to fit.
    pub width: Option<usize>,
    /// Whether to use colour.
    pub color: bool,
    /// The zone that times are shown in.
    pub zone: TimeZone,
}

/// What a piece of text means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mood {
    Plain,
    Title,
    Good,
    Notice,
    Bad,
    Faint,
}

impl Screen {
    /// Looks at standard output.
    pub fn detect(when: ColorWhen) -> Self {
        let out = std::io::stdout();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let size = rustix::termios::tcgetwinsize(&out).ok();
        let width = size.map(|size| usize::from(size.ws_col).max(NARROWEST));
        Self {
            width: width.filter(|_| out.is_terminal()),
            color: match when {
                ColorWhen::Always => true,
                ColorWhen::Never => false,
                ColorWhen::Auto => out.is_terminal() && !no_color,
            },
            zone: TimeZone::system(),
        }
    }

    /// Returns `text` in the colour of its mood. Pad and cut before: colours take no columns.
    pub(super) fn paint(&self, mood: Mood, text: &str) -> String {
        let code = match mood {
            Mood::Title => "1",
            Mood::Good => "32",
            Mood::Notice => "33",
            Mood::Bad => "31",
            Mood::Faint => "2",
            Mood::Plain => return text.to_owned(),
        };
        if self.color && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Returns the time of day, to the millisecond.
    pub(super) fn time(&self, when: Timestamp) -> String {
        let zoned = when.to_zoned(self.zone.clone());
        zoned.strftime("%H:%M:%S%.3f").to_string()
    }
}

#[cfg(test)]
impl Screen {
    /// Returns a screen of 80 columns without colour.
    pub(super) fn plain() -> Self {
        Self {
            width: Some(80),
            color: false,
            zone: TimeZone::UTC,
        }
    }
}
