//! The project's own annotations and labels: `underpass.dev/...`.
#![forbid(unsafe_code)]

use std::path::{Component, Path, PathBuf};

use crate::config::known;
use crate::config::limits;
use crate::config::metadata::Mark;
use crate::config::reader::Reader;
use crate::model::workload::{Acceleration, Location};

/// Records every mark that is not in `known`, or is a label where only an annotation will do.
pub(crate) fn only(reader: &mut Reader, marks: &[Mark], known: &[&str]) {
    for mark in marks {
        let sort = if mark.is_label { "label" } else { "annotation" };
        if !known.contains(&mark.name.as_str()) {
            let problem = format!("unknown {sort} `{}`", mark.name);
            let help = match nearest(&mark.name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None if known::POD_ANNOTATIONS.contains(&mark.name.as_str()) => {
                    "it belongs on a Pod".to_owned()
                }
                None if known::SERVICE_ANNOTATIONS.contains(&mark.name.as_str()) => {
                    "it belongs on a Service".to_owned()
                }
                None if known.is_empty() => "this kind takes none".to_owned(),
                None => format!("known ones are {}", known.join(", ")),
            };
            reader.error(mark.line, &mark.path, problem, help);
        } else if !mark.is_label && mark.name == known::MESH {
            let problem = format!("`{}` is a label, not an annotation", mark.name);
            let help = "move it from `metadata.annotations` to `metadata.labels`";
            reader.error(mark.line, &mark.path, problem, help);
        } else if mark.is_label && ![known::ACCELERATION, known::MESH].contains(&mark.name.as_str())
        {
            let problem = format!("`{}` is an annotation, not a label", mark.name);
            let help = "move it from `metadata.labels` to `metadata.annotations`";
            reader.error(mark.line, &mark.path, problem, help);
        }
    }
}

/// Returns the name that was probably meant. What all of them begin with makes none alike.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let bare: Vec<&str> = known
        .iter()
        .filter_map(|known| known.strip_prefix(known::PREFIX))
        .collect();
    let near = known::nearest(name.strip_prefix(known::PREFIX)?, &bare)?;
    known.iter().find(|known| known.ends_with(near)).copied()
}

/// Returns the mode that annotation or label give, if any.
pub(crate) fn acceleration(reader: &mut Reader, marks: &[Mark]) -> Option<Acceleration> {
    let mut found: Option<(&Mark, Acceleration)> = None;
    for mark in marks.iter().filter(|mark| mark.name == known::ACCELERATION) {
        let Ok(mode) = mark.value.parse::<Acceleration>() else {
            let problem = format!("`{}` is not a mode of acceleration", mark.value);
            let help = format!("the modes are {}", known::accelerations());
            reader.error(mark.line, &mark.path, problem, help);
            continue;
        };
        if let Some((first, earlier)) = found
            && earlier != mode
        {
            let problem = format!(
                "`{}` contradicts `{}` in {}",
                mode.word(),
                earlier.word(),
                first.path
            );
            reader.error(mark.line, &mark.path, problem, "keep one of the two");
        }
        found = Some((mark, mode));
    }
    found.map(|(_, mode)| mode)
}

/// Returns whether the label says that pods are in the mesh, if it is there.
pub(crate) fn mesh(reader: &mut Reader, marks: &[Mark]) -> Option<bool> {
    let labels = || marks.iter().filter(|mark| mark.is_label);
    if !labels().any(|mark| mark.name == known::MESH) {
        return None;
    }
    word(
        reader,
        marks,
        known::MESH,
        &[("enabled", true), ("disabled", false)],
    )
}

/// What the annotations of a pod or slice say about the share of its endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Share {
    pub(crate) weight: Option<u32>,
    pub(crate) priority: Option<u32>,
}

/// Returns the share that the annotations give.
pub(crate) fn share(reader: &mut Reader, marks: &[Mark]) -> Share {
    Share {
        weight: number(reader, marks, known::WEIGHT, limits::WEIGHT),
        priority: number(reader, marks, known::PRIORITY, limits::PRIORITY),
    }
}

fn number(reader: &mut Reader, marks: &[Mark], name: &str, most: u32) -> Option<u32> {
    let mark = marks.iter().find(|mark| mark.name == name)?;
    let digits = mark.value.bytes().all(|byte| byte.is_ascii_digit());
    let number = mark.value.parse().ok().filter(|number| *number <= most);
    if number.is_none() || !digits {
        let problem = format!("`{}` is not a whole number from 0 to {most}", mark.value);
        let help = "write the number in quotes, as every annotation";
        reader.error(mark.line, &mark.path, problem, help);
    }
    number
}

/// Returns what `words` make of an annotation, if it is there.
pub(crate) fn word<T: Copy>(
    reader: &mut Reader,
    marks: &[Mark],
    name: &str,
    words: &[(&str, T)],
) -> Option<T> {
    let mark = marks.iter().find(|mark| mark.name == name)?;
    let found = words.iter().find(|(word, _)| *word == mark.value);
    if found.is_none() {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let help = match known::nearest(&mark.value, &words) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}", words.join(", ")),
        };
        let problem = format!("`{}` is not known here", mark.value);
        reader.error(mark.line, &mark.path, problem, help);
    }
    found.map(|(_, value)| *value)
}

/// Returns where the annotations say that the workload runs; by its addresses if they say nothing.
pub(crate) fn location(reader: &mut Reader, marks: &[Mark]) -> Location {
    let mut found: Option<(&Mark, Location)> = None;
    for mark in marks.iter().filter(|mark| !mark.is_label) {
        let location = match mark.name.as_str() {
            known::PID => pid(reader, mark).map(Location::Pid),
            known::NETNS => netns(reader, mark).map(Location::Netns),
            known::CGROUP => cgroup(reader, mark).map(Location::Cgroup),
            _ => continue,
        };
        if let Some((first, _)) = &found {
            let problem = format!(
                "a workload has one location, and `{}` gives one already",
                first.name
            );
            reader.error(mark.line, &mark.path, problem, "keep one of the two");
        }
        found = Some((mark, location.unwrap_or(Location::Addresses)));
    }
    found.map_or(Location::Addresses, |(_, location)| location)
}

fn pid(reader: &mut Reader, mark: &Mark) -> Option<u32> {
    // Linux has no PID above 2^22 (PID_MAX_LIMIT), and 0 is the idle task.
    const PID_MAX: u32 = 1 << 22;
    let digits = mark.value.bytes().all(|byte| byte.is_ascii_digit());
    let pid = mark.value.parse().ok();
    if let Some(pid @ 1..=PID_MAX) = pid
        && digits
    {
        return Some(pid);
    }
    let problem = format!("`{}` is not a process ID", mark.value);
    let help = "give the ID of a process of the workload, as `ps` on this machine shows it";
    reader.error(mark.line, &mark.path, problem, help);
    None
}

fn netns(reader: &mut Reader, mark: &Mark) -> Option<PathBuf> {
    let path = path(reader, mark)?;
    if path.is_absolute() {
        return Some(path);
    }
    let problem = format!("`{}` is not an absolute path", mark.value);
    let help = format!(
        "a namespace made by `ip netns add {0}` is `/run/netns/{0}`",
        mark.value
    );
    reader.error(mark.line, &mark.path, problem, help);
    None
}

fn cgroup(reader: &mut Reader, mark: &Mark) -> Option<PathBuf> {
    path(reader, mark)
}

fn path(reader: &mut Reader, mark: &Mark) -> Option<PathBuf> {
    let path = Path::new(&mark.value);
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let named = path
        .components()
        .any(|part| matches!(part, Component::Normal(_)));
    let (problem, help) = if !named {
        ("is empty", "give a path, or leave the annotation out")
    } else if mark.value.len() > limits::PATH_BYTES || mark.value.contains('\0') {
        (
            "is no path that Linux takes",
            "give a path of at most 4,095 bytes",
        )
    } else if !path.components().all(plain) {
        ("holds `.` or `..`", "write the path out")
    } else {
        return Some(path.to_owned());
    };
    reader.error(mark.line, &mark.path, problem, help);
    None
}
