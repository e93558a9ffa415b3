//! `sessionPersistence` (GEP-1619), of a rule or of a backend.
#![forbid(unsafe_code)]

use std::time::Duration;

use http::HeaderName;

use crate::config::duration;
use crate::config::known::gateway as names;
use crate::config::limits;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::route::{SessionBy, SessionPersistence};

/// Bytes of a session's name (Gateway API's limit).
const NAME_BYTES: usize = 128;

/// Reads `sessionPersistence`, if it is there.
pub(crate) fn read(reader: &mut Reader, parent: &Fields<'_>) -> Option<SessionPersistence> {
    let fields = reader.child(parent, "sessionPersistence")?;
    reader.only(&fields, names::SESSION, Unknown::Error);
    let name = reader.text(&fields, "sessionName");
    if let Some(name) = name
        && (name.len() > NAME_BYTES || HeaderName::from_bytes(name.as_bytes()).is_err())
    {
        let problem = format!("`{name}` cannot be the name of a cookie or field");
        let help = "write letters, digits, `-` and `_`";
        let line = fields.line_of("sessionName");
        reader.error(line, fields.path_of("sessionName"), problem, help);
    }
    let timeout = up_to(reader, &fields, "absoluteTimeout", limits::SESSION);
    let timeout = timeout.filter(|it| !it.is_zero());
    let by = reader.word(&fields, "type", &["Cookie", "Header"])?;
    let mut permanent = false;
    if let Some(cookie) = reader.child(&fields, "cookieConfig") {
        reader.only(&cookie, names::COOKIE, Unknown::Error);
        let lifetime = reader.word(&cookie, "lifetimeType", &["Session", "Permanent"]);
        permanent = lifetime == Some("Permanent");
        if permanent && timeout.is_none() {
            let help = "say for how long: `absoluteTimeout: 1h`";
            let path = fields.path_of("absoluteTimeout");
            reader.error(cookie.line, path, "is missing for a permanent cookie", help);
        }
    }
    Some(SessionPersistence {
        name: name.map(str::to_owned),
        by: match by {
            "Header" => SessionBy::Header,
            _ => SessionBy::Cookie { permanent },
        },
        timeout,
    })
}

/// Returns the duration `field`, if it is there and above zero; `0s` means that there is none.
pub(crate) fn duration(reader: &mut Reader, fields: &Fields<'_>, field: &str) -> Option<Duration> {
    up_to(reader, fields, field, limits::DURATION).filter(|it| !it.is_zero())
}

/// Returns the duration `field`, if it is there; `0s` is wrong.
pub(crate) fn positive(reader: &mut Reader, fields: &Fields<'_>, field: &str) -> Option<Duration> {
    let duration = up_to(reader, fields, field, limits::DURATION)?;
    if duration.is_zero() {
        let help = "write more than that, or leave it out";
        let (line, path) = (fields.line_of(field), fields.path_of(field));
        reader.error(line, path, "is no time at all", help);
        return None;
    }
    Some(duration)
}

fn up_to(
    reader: &mut Reader,
    fields: &Fields<'_>,
    field: &str,
    most: Duration,
) -> Option<Duration> {
    let text = reader.text(fields, field)?;
    let duration = duration::parse(text).filter(|it| *it <= most);
    if duration.is_none() {
        let hours = most.as_secs() / 3600;
        let problem = format!("`{text}` is not a duration of at most {hours}h");
        let help = "write one such as `10s`, `1m30s` or `500ms`";
        reader.error(fields.line_of(field), fields.path_of(field), problem, help);
    }
    duration
}
