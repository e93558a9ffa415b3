//! Sets up `tracing`: what is logged, and in which form. Everything goes to standard error.

#![forbid(unsafe_code)]

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::Output;
use crate::settings::LogSettings;

/// A log that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is none.
    #[error("`{filter}` is neither a log level (error, warn, info, debug, trace) nor a filter")]
    Filter {
        /// What was given.
        filter: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// There is a log already.
    #[error("failed to set up the log")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up the log of this process. Called once, before anything is logged.
///
/// # Errors
///
/// When the filter is none, or there is a log already.
pub fn init(settings: &LogSettings) -> Result<(), LogError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&settings.filter)?)
        .with_writer(std::io::stderr);
    match settings.format {
        Output::Json => builder.json().flatten_event(true).finish().try_init()?,
        Output::Text => builder
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .finish()
            .try_init()?,
    }
    Ok(())
}

fn filter(text: &str) -> Result<EnvFilter, LogError> {
    // A single word that is no level would be taken as the name of a module, and nothing would be logged.
    let level = text.parse::<tracing_subscriber::filter::LevelFilter>();
    if level.is_err() && !text.contains(['=', ',']) {
        let unknown = EnvFilter::builder().parse(format!("mesh_agent={text}"));
        unknown.map_err(|source| LogError::Filter {
            filter: text.to_owned(),
            source,
        })?;
    }
    EnvFilter::builder()
        .parse(text)
        .map_err(|source| LogError::Filter {
            filter: text.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_known_and_slips_are_told() {
        for good in [
            "info",
            "DEBUG",
            "off",
            "warn,mesh_agent::kernel=trace",
            "mesh_agent=debug",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["verbose", "mesh_agent=loud", "inf"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
