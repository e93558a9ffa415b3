//! The live screen, drawn from data alone.

#![forbid(unsafe_code)]

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use crate::cli::SortKey;
use crate::ctl::human::{bytes, clean, cut, short, width};
use crate::ctl::top::rates::Top;
use crate::ctl::top::{COLUMNS, sorted_by};

/// What the screen shows beside the data.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// What rows are sorted by.
    pub(super) sort: SortKey,
    /// First row that is shown.
    pub(super) offset: usize,
    /// Why the last look failed.
    pub(super) error: Option<String>,
    /// Whether to use colour.
    pub(super) color: bool,
}

/// Columns of numbers, from `BYTES/S` on, without the last one of the table, which needs a wider screen.
const NUMBERS: [u16; 6] = [8, 6, 5, 6, 6, 5];

/// Draws the screen.
pub(super) fn draw(frame: &mut Frame<'_>, top: &Top, view: &View) {
    let rows = [
        Constraint::Length(2),
        Constraint::Fill(1),
        Constraint::Length(1),
    ];
    let [head, body, foot] = Layout::vertical(rows).areas(frame.area());
    frame.render_widget(Paragraph::new(head_lines(top, view, head.width)), head);
    table(frame, body, top, view);
    let keys = "q quit  b bytes  m messages  f flows  l latency  n name  arrows scroll";
    frame.render_widget(Paragraph::new(Line::from(keys).dim()), foot);
}

fn head_lines<'a>(top: &Top, view: &View, columns: u16) -> Vec<Line<'a>> {
    let mut line = format!(
        "{}/s, {} messages/s, live flows: {}",
        bytes(top.bytes_per_second),
        short(top.messages_per_second),
        top.flows_open
    );
    if let Some(share) = top.redirected_percent {
        line += &format!(", {share:.0}% redirected");
    }
    let by = format!("  by {}", sorted_by(view.sort));
    let mut first = vec![Span::from(line).bold(), Span::from(by).dim()];
    if top.seconds == 0.0 {
        first = vec![Span::from("measuring...").dim()];
    }
    let error = view.error.as_deref().unwrap_or_default();
    let error = cut(&clean(error), columns.into());
    let error = Span::from(error);
    let error = if view.color {
        error.red()
    } else {
        error.reversed()
    };
    vec![Line::from(first), Line::from(error)]
}

fn table(frame: &mut Frame<'_>, area: Rect, top: &Top, view: &View) {
    let texts: Vec<_> = top.rows.iter().map(super::rates::Row::texts).collect();
    let [source, destination] = name_widths(area.width, &texts);
    let mut widths = vec![source, destination];
    widths.extend(NUMBERS);
    let head = COLUMNS.iter().zip(&widths).map(|(column, columns)| {
        let title = column.title();
        Cell::from(column.placed(title, (*columns).into()))
    });
    let rows = texts.iter().skip(view.offset).map(|texts| {
        let cells = texts.iter().zip(&COLUMNS).zip(&widths);
        let cells = cells
            .map(|((text, column), columns)| Cell::from(column.placed(text, (*columns).into())));
        Row::new(cells)
    });
    let head_style = Style::new().add_modifier(Modifier::BOLD);
    let table = Table::new(
        rows,
        widths.iter().map(|columns| Constraint::Length(*columns)),
    )
    .header(Row::new(head).style(head_style))
    .column_spacing(1);
    frame.render_widget(table, area);
}

/// Returns the widths of the two columns of names: what they need, or equal shares of what there is.
fn name_widths(columns: u16, texts: &[[String; 9]]) -> [u16; 2] {
    let gaps = u16::try_from(NUMBERS.len()).unwrap_or(0) + 1;
    let room = columns.saturating_sub(NUMBERS.iter().sum::<u16>() + gaps);
    let needs = |i: usize, title: &str| {
        let longest = texts.iter().map(|row| width(&row[i])).max();
        let needs = longest.unwrap_or(0).max(width(title));
        u16::try_from(needs).unwrap_or(u16::MAX)
    };
    let (source, destination) = (needs(0, "SOURCE"), needs(1, "DESTINATION"));
    if source.saturating_add(destination) <= room {
        return [source, destination];
    }
    let half = room / 2;
    if source <= half {
        [source, room - source]
    } else if destination <= room - half {
        [room - destination, destination]
    } else {
        [half, room - half]
    }
}
