//! The one screen.

#![forbid(unsafe_code)]

use crate::admin::types::{DataPathSummary, DnsSummary, LossCounts, ServiceSummary, Status};
use crate::ctl::human::{bytes, clean, cut, exact, seconds_in_words, short, width, wrap};
use crate::ctl::screen::{Mood, Screen};
use crate::ctl::status::Rates;
use crate::ctl::workloads::state;
use crate::model::api::{ApiKind, ApiState, ApiStatus, WatchState};
use crate::model::enrolment::Enrolment;
use crate::model::observed::{Level, WorkloadState};

/// Columns where output is not a terminal, and at most: longer lines are hard to read.
const COLUMNS: usize = 80;
const COLUMNS_MAX: usize = 110;

/// Columns of the labels on the left.
const LABEL: usize = 12;

/// Lines of a list that is longer elsewhere: few enough for everything to fit on one screen.
const LINES: usize = 5;

/// Returns the screen.
pub(super) fn render(status: &Status, rates: Option<&Rates>, screen: &Screen) -> String {
    let mut page = Page {
        text: String::new(),
        columns: screen.width.unwrap_or(COLUMNS).min(COLUMNS_MAX),
        screen,
    };
    agent(&mut page, status);
    kernel(&mut page, status);
    config(&mut page, status);
    if let Some(api) = &status.kubernetes {
        kubernetes(&mut page, api);
    }
    workloads(&mut page, status);
    not_captured(&mut page, &status.enrolment);
    services(&mut page, &status.services);
    dns(&mut page, &status.dns);
    data_path(&mut page, &status.data_path);
    flows(&mut page, status);
    rates_line(&mut page, rates);
    maps(&mut page, status);
    losses(&mut page, status);
    page.text
}

struct Page<'a> {
    text: String,
    columns: usize,
    screen: &'a Screen,
}

impl Page<'_> {
    /// Adds a line with a label, or without one where it goes on.
    fn line(&mut self, label: &str, mood: Mood, text: &str) {
        let room = self.columns.saturating_sub(LABEL);
        let label = format!("{label:<LABEL$}");
        let text = cut(&clean(text), room);
        self.text += &self.screen.paint(Mood::Title, &label);
        self.text += &self.screen.paint(mood, &text);
        self.text.truncate(self.text.trim_end().len());
        self.text.push('\n');
    }

    /// Adds a text that may need more lines, under a label that is part of the line above.
    fn item(&mut self, label: &str, mood: Mood, text: &str) {
        let room = self.columns.saturating_sub(LABEL);
        let mut label = format!("  {label}");
        for line in wrap(text, room) {
            let painted = self.screen.paint(mood, &line);
            let blanks = " ".repeat(LABEL.saturating_sub(width(&label)));
            self.text += &format!("{label}{blanks}{painted}\n");
            label.clear();
        }
    }

    /// Adds how many lines of a list were left out.
    fn more(&mut self, left_out: usize, where_else: &str) {
        if left_out > 0 {
            self.item("", Mood::Faint, &format!("and {left_out} more{where_else}"));
        }
    }
}

fn agent(page: &mut Page<'_>, status: &Status) {
    let agent = &status.agent;
    let uptime = seconds_in_words(agent.uptime_seconds);
    let who = format!("node {}, up {uptime}, ", agent.node);
    let which = format!("version {}, pid {}", agent.version, agent.pid);
    page.line("Agent", Mood::Plain, &(who + &which));
    if status.degraded.is_empty() {
        page.line("Health", Mood::Good, "ok");
        return;
    }
    page.line("Health", Mood::Bad, "degraded");
    for fault in status.degraded.iter().take(LINES) {
        page.item("", Mood::Bad, &format!("- {fault}"));
    }
    page.more(status.degraded.len().saturating_sub(LINES), "");
}

fn kernel(page: &mut Page<'_>, status: &Status) {
    let probe = &status.kernel;
    let (level, mood) = match probe.level {
        Level::Applications => ("redirect is fit for applications", Mood::Good),
        Level::OwnSockets => (
            "redirect is fit for the agent's own sockets only",
            Mood::Notice,
        ),
        Level::Off => ("redirect is not fit for use", Mood::Notice),
    };
    page.line("Kernel", mood, &format!("{}: {level}", probe.kernel));
    for why in &probe.why {
        page.item("because", Mood::Notice, why);
    }
    for defect in &probe.defects {
        let forbids = defect.forbids.join(", ");
        page.item(
            "defect",
            Mood::Plain,
            &format!("{} (forbids {forbids})", defect.words),
        );
    }
    for missing in &probe.missing {
        let text = format!("{}: {}", missing.feature, missing.lost);
        if !probe.why.contains(&text) {
            page.item("missing", Mood::Plain, &text);
        }
    }
    let count = |attached| {
        status
            .hooks
            .iter()
            .filter(|h| h.attached == attached)
            .count()
    };
    let (attached, missing, idle) = (count(Some(true)), count(Some(false)), count(None));
    let mut hooks = format!("{attached} of {} attached", attached + missing);
    if idle > 0 {
        hooks += &format!(", {idle} more when needed");
    }
    page.line(
        "Hooks",
        if missing > 0 { Mood::Bad } else { Mood::Plain },
        &hooks,
    );
    if !status.redirect_allowed {
        let off = "on: nothing is redirected, by `node-agent acceleration off`";
        page.line("Kill switch", Mood::Notice, off);
    }
}

fn config(page: &mut Page<'_>, status: &Status) {
    let config = &status.config;
    let in_force = if config.kernel_generation >= config.generation {
        "in force".to_owned()
    } else {
        format!("read, {} in force", config.kernel_generation)
    };
    let (errors, mood) = match config.errors.len() {
        0 => ("no errors".to_owned(), Mood::Plain),
        1 => ("1 error".to_owned(), Mood::Bad),
        more => (format!("{more} errors"), Mood::Bad),
    };
    let line = format!("generation {} {in_force}, {errors}", config.generation);
    page.line("Config", mood, &line);
    for error in config.errors.iter().take(LINES) {
        page.item("error", Mood::Bad, error.lines().next().unwrap_or_default());
    }
    let left_out = config.errors.len().saturating_sub(LINES);
    page.more(left_out, "; `node-agent check DIR` prints all");
}

fn kubernetes(page: &mut Page<'_>, api: &ApiStatus) {
    let mood = match api.state {
        ApiState::Synced => Mood::Good,
        ApiState::Starting | ApiState::Behind => Mood::Notice,
    };
    let line = format!(
        "{} with {}, {} requests",
        api.state.word(),
        api.server,
        exact(api.requests)
    );
    page.line("Kubernetes", mood, &line);
    if let Some(why) = &api.why {
        page.item("because", Mood::Notice, why);
    }
    if let Some(at) = api.from_disk {
        page.item(
            "on disk",
            Mood::Notice,
            &format!("running what was kept at {at}"),
        );
    } else if let (Some(at), true) = (api.last_sync, api.state != ApiState::Synced) {
        page.item("last sync", Mood::Notice, &at.to_string());
    }
    let watched = api.kinds.iter().filter(|kind| kind.objects > 0);
    let counts: Vec<_> = watched
        .map(|kind| match kind.scope.as_str() {
            "all" => format!("{} {}", exact(kind.objects as u64), kind.kind),
            scope => format!("{} {} ({scope})", exact(kind.objects as u64), kind.kind),
        })
        .collect();
    page.item("objects", Mood::Plain, &counts.join(", "));
    let stuck = |kind: &&ApiKind| kind.state == WatchState::Retrying;
    let stuck: Vec<_> = api.kinds.iter().filter(stuck).collect();
    for kind in stuck.iter().take(LINES) {
        let why = kind.why.as_deref().unwrap_or_default();
        page.item("not told", Mood::Notice, &format!("{}: {why}", kind.kind));
    }
    page.more(stuck.len().saturating_sub(LINES), " kinds");
    for text in api.unreadable.iter().rev().take(LINES) {
        page.item("skipped", Mood::Notice, text);
    }
}

fn workloads(page: &mut Page<'_>, status: &Status) {
    let summary = &status.workloads;
    if summary.total == 0 {
        page.line("Workloads", Mood::Plain, "none");
        return;
    }
    let states = summary.states.iter();
    let states: Vec<_> = states
        .map(|count| format!("{} {}", count.count, state(count.state).0))
        .collect();
    let line = format!("{}: {}", summary.total, states.join(", "));
    page.line("Workloads", Mood::Plain, &line);
    for reason in summary.reasons.iter().take(LINES) {
        let (word, mood) = state(reason.state);
        let why = if reason.why.is_empty() {
            word
        } else {
            &reason.why
        };
        page.item(&format!("{:>4} x", reason.count), mood, why);
    }
    page.more(summary.reasons.len().saturating_sub(LINES), " reasons");
    let stuck = |state| {
        matches!(
            state,
            WorkloadState::NotAccelerated | WorkloadState::NotFound | WorkloadState::Rejected
        )
    };
    let stuck: Vec<_> = summary
        .not_accelerated
        .iter()
        .filter(|workload| stuck(workload.state))
        .collect();
    for workload in stuck.iter().take(LINES) {
        let (word, mood) = state(workload.state);
        let name = format!("{}/{}", workload.namespace, workload.name);
        // Two columns: the name, cut where it is long, and why.
        let name = cut(&name, page.columns.saturating_sub(LABEL) / 2);
        let why = if workload.why.is_empty() {
            word
        } else {
            &workload.why
        };
        let wide = page.columns.saturating_sub(LABEL) / 2;
        page.line("", mood, &format!("{name:<wide$} {why}"));
    }
    page.more(
        stuck.len().saturating_sub(LINES),
        "; `node-agent workloads` lists all",
    );
}

/// Names those that the mesh passes by, though it should not.
fn not_captured(page: &mut Page<'_>, enrolment: &Enrolment) {
    let all = &enrolment.not_captured;
    if all.is_empty() {
        return;
    }
    let (captured, missed) = (enrolment.captured as u64, all.len() as u64);
    let mood = match all.iter().any(|it| it.reason.is_fault()) {
        true => Mood::Bad,
        false => Mood::Notice,
    };
    let line = format!("{} captured, {} not", exact(captured), exact(missed));
    page.line("In the mesh", mood, &line);
    // Those that somebody has to look after first.
    let (bad, meant): (Vec<_>, Vec<_>) = all.iter().partition(|it| it.reason.is_fault());
    for pod in bad.iter().chain(&meant).take(LINES) {
        let name = format!("{}/{}", pod.namespace, pod.name);
        page.item("", Mood::Plain, &format!("{name}: {}", pod.why));
    }
    page.more(
        all.len().saturating_sub(LINES),
        "; `node-agent workloads` lists all",
    );
}

fn services(page: &mut Page<'_>, summary: &ServiceSummary) {
    if summary.total == 0 {
        page.line("Services", Mood::Plain, "none");
        return;
    }
    let counts = [
        (summary.not_in_force, "not in force", Mood::Bad),
        (summary.without_backend, "without a backend", Mood::Bad),
        (summary.in_panic, "in panic", Mood::Notice),
        (summary.ejected_endpoints, "endpoints ejected", Mood::Notice),
    ];
    let bad = counts.iter().filter(|(count, ..)| *count > 0);
    let mood = bad
        .clone()
        .map(|(.., mood)| *mood)
        .next()
        .unwrap_or(Mood::Plain);
    let bad = bad.map(|(count, words, _)| format!(", {} {words}", exact(*count as u64)));
    let (total, balanced) = (summary.total as u64, summary.balanced as u64);
    let line = format!("{}: {} balanced", exact(total), exact(balanced));
    page.line("Services", mood, &(line + &bad.collect::<String>()));
}

fn dns(page: &mut Page<'_>, summary: &DnsSummary) {
    let queries: u64 = summary.queries.values().sum();
    if summary.listening_workloads == 0 && queries == 0 {
        return;
    }
    let listening = match summary.listening_workloads {
        1 => "answers in 1 workload".to_owned(),
        more => format!("answers in {} workloads", exact(more)),
    };
    let mut line = format!("{listening}, {} queries", exact(queries));
    for word in ["failed", "refused", "dropped"] {
        let count = summary.queries.get(word).copied().unwrap_or(0);
        if count > 0 {
            line += &format!(", {} {word}", exact(count));
        }
    }
    page.line("DNS", Mood::Plain, &line);
}

fn data_path(page: &mut Page<'_>, summary: &DataPathSummary) {
    if summary.ports == 0 && summary.connections == 0 {
        return;
    }
    let DataPathSummary {
        ports,
        threads,
        listening_workloads: workloads,
        connections,
        problem,
    } = summary;
    let mood = match problem {
        None => Mood::Plain,
        Some(_) => Mood::Bad,
    };
    let of = |count: u64, one: &str| match count {
        1 => format!("1 {one}"),
        more => format!("{} {one}s", exact(more)),
    };
    let line = format!(
        "{} to {}, in {}, by {}",
        of(*connections, "connection"),
        of(*ports as u64, "port"),
        of(*workloads as u64, "workload"),
        of(*threads as u64, "thread"),
    );
    page.line("Proxied", mood, &line);
}

fn flows(page: &mut Page<'_>, status: &Status) {
    let total: usize = status.live_flows.iter().map(|flows| flows.count).sum();
    if total == 0 {
        page.line("Live flows", Mood::Plain, "none");
        return;
    }
    let mut paths = Vec::new();
    for path in ["redirect", "mixed", "tcp"] {
        let on_path = status.live_flows.iter().filter(|flows| flows.path == path);
        let count: usize = on_path.map(|flows| flows.count).sum();
        if count > 0 {
            paths.push(format!("{} {path}", exact(count as u64)));
        }
    }
    let line = format!("{}: {}", exact(total as u64), paths.join(", "));
    page.line("Live flows", Mood::Plain, &line);
    let reasons: Vec<_> = status
        .live_flows
        .iter()
        .filter(|f| f.reason != "none")
        .collect();
    for flows in reasons.iter().take(LINES) {
        let text = format!("{}: {}", flows.path, flows.reason_text);
        page.item(
            &format!("{:>4} x", short(small(flows.count))),
            Mood::Plain,
            &text,
        );
    }
    page.more(reasons.len().saturating_sub(LINES), " reasons");
}

fn rates_line(page: &mut Page<'_>, rates: Option<&Rates>) {
    let Some(rates) = rates else { return };
    let mut line = format!("{}/s", bytes(rates.bytes));
    if rates.bytes > 0.0 {
        let share = 100.0 * rates.redirected_bytes / rates.bytes;
        line += &format!(" ({share:.0}% redirected)");
    }
    line += &format!(", {} messages/s", short(rates.messages));
    line += &format!(", {} flows opened/s", short(rates.flows_opened));
    if rates.flows_failed > 0.0 {
        line += &format!(", {} failed/s", short(rates.flows_failed));
    }
    page.line("Rates", Mood::Plain, &line);
}

fn maps(page: &mut Page<'_>, status: &Status) {
    let mut label = "Maps";
    for map in &status.maps {
        let percent = (map.used * 100).checked_div(map.max).unwrap_or(0);
        let mood = match percent {
            90.. => Mood::Bad,
            75..90 => Mood::Notice,
            _ => Mood::Plain,
        };
        let (used, max) = (exact(map.used), exact(map.max));
        let line = format!("{:<19} {used:>9} of {max:>9} {percent:>4}%", map.map);
        page.line(label, mood, &line);
        label = "";
    }
}

fn losses(page: &mut Page<'_>, status: &Status) {
    let losses = &status.losses;
    let (recent, total) = (words(&losses.recent), words(&losses.total));
    if total.is_empty() {
        page.line("Lost", Mood::Plain, "nothing");
        return;
    }
    let window = seconds_in_words(losses.recent_seconds);
    if recent.is_empty() {
        page.line(
            "Lost",
            Mood::Plain,
            &format!("nothing in the last {window}"),
        );
    } else {
        page.line(
            "Lost",
            Mood::Bad,
            &format!("in the last {window}: {recent}"),
        );
    }
    page.item("ever", Mood::Faint, &total);
}

fn words(counts: &LossCounts) -> String {
    let LossCounts {
        flow_records,
        pairs_overflowed,
        socket_state,
        stalls,
        spurious_eagain,
    } = *counts;
    let words: Vec<_> = [
        (flow_records, "flow records"),
        (pairs_overflowed, "pair counters"),
        (socket_state, "sockets not counted"),
        (stalls, "stalled flows reset"),
        (spurious_eagain, "spurious EAGAINs"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{} {what}", exact(count)))
    .collect();
    words.join(", ")
}

#[expect(clippy::cast_precision_loss, reason = "printed with three digits")]
fn small(count: usize) -> f64 {
    count as f64
}
