//! A table that fits: columns shrink first, then the least needed go.

#![forbid(unsafe_code)]

use crate::ctl::human::{cut, cut_name, width};
use crate::ctl::screen::{Mood, Screen};

/// Blanks between two columns.
const GAP: usize = 2;

/// One column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    right: bool,
    /// Whether it is cut in the middle.
    name: bool,
    /// Columns that it keeps when it shrinks; `None` for one that never does.
    shrinks_to: Option<usize>,
    /// Rank in which it goes when shrinking is not enough: the highest first, 0 never.
    goes: u8,
}

impl Column {
    /// A column of texts that keeps its width.
    pub(super) const fn text(title: &'static str) -> Self {
        Self {
            title,
            right: false,
            name: false,
            shrinks_to: None,
            goes: 0,
        }
    }

    /// A column of names, which are cut in the middle.
    pub(super) const fn name(title: &'static str) -> Self {
        Self {
            name: true,
            ..Self::text(title)
        }
    }

    /// A column of numbers.
    pub(super) const fn number(title: &'static str) -> Self {
        Self {
            right: true,
            ..Self::text(title)
        }
    }

    /// Returns its title.
    pub(super) const fn title(&self) -> &'static str {
        self.title
    }

    /// Returns a cell's text cut to `columns`, and the blanks that fill it up.
    fn fitted(&self, text: &str, columns: usize) -> (String, String) {
        let text = if self.name {
            cut_name(text, columns)
        } else {
            cut(text, columns)
        };
        let blanks = " ".repeat(columns.saturating_sub(width(&text)));
        (text, blanks)
    }

    /// Returns a cell's text on exactly `columns`.
    pub(super) fn placed(&self, text: &str, columns: usize) -> String {
        let (text, blanks) = self.fitted(text, columns);
        if self.right {
            blanks + &text
        } else {
            text + &blanks
        }
    }

    /// May shrink to `columns`.
    pub(super) const fn shrinks_to(self, columns: usize) -> Self {
        Self {
            shrinks_to: Some(columns),
            ..self
        }
    }

    /// Goes when there is no room, those with the highest rank first.
    pub(super) const fn goes(self, rank: u8) -> Self {
        Self { goes: rank, ..self }
    }
}

/// One cell: its text and what it means.
pub(super) type Cell = (String, Mood);

/// Returns a table with a head line; rows have a cell for each column.
pub(super) fn render(columns: &[Column], rows: &[Vec<Cell>], screen: &Screen) -> String {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let natural = |i: usize| {
        let cells = rows.iter().map(|row| width(&row[i].0));
        cells.max().unwrap_or(0).max(width(columns[i].title))
    };
    let widths = loop {
        let mut widths: Vec<_> = shown.iter().map(|i| natural(*i)).collect();
        if shrink(columns, &shown, &mut widths, screen.width) {
            break widths;
        }
        let least = shown.iter().copied().max_by_key(|i| columns[*i].goes);
        match least.filter(|i| columns[*i].goes > 0) {
            Some(least) => shown.retain(|i| *i != least),
            None => break widths,
        }
    };
    let titles: Vec<Cell> = columns
        .iter()
        .map(|column| (column.title.to_owned(), Mood::Title))
        .collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        line(&mut text, columns, &shown, &widths, row, screen);
    }
    text
}

/// Shrinks the widest columns that may, until all fit. Returns whether they do.
fn shrink(columns: &[Column], shown: &[usize], widths: &mut [usize], room: Option<usize>) -> bool {
    let Some(room) = room else { return true };
    loop {
        let gaps = GAP * widths.len().saturating_sub(1);
        if widths.iter().sum::<usize>() + gaps <= room {
            return true;
        }
        let may = |(at, width): &(usize, &mut usize)| {
            let least = columns[shown[*at]].shrinks_to;
            least.is_some_and(|least| **width > least)
        };
        let widest = widths.iter_mut().enumerate().filter(may);
        match widest.max_by_key(|(_, width)| **width) {
            Some((_, width)) => *width -= 1,
            None => return false,
        }
    }
}

fn line(
    text: &mut String,
    columns: &[Column],
    shown: &[usize],
    widths: &[usize],
    row: &[Cell],
    screen: &Screen,
) {
    let mut line = String::new();
    for (at, (i, columns_wide)) in shown.iter().zip(widths).enumerate() {
        let (cell, mood) = &row[*i];
        let (cell, blanks) = columns[*i].fitted(cell, *columns_wide);
        let painted = screen.paint(*mood, &cell);
        if at > 0 {
            line.push_str(&" ".repeat(GAP));
        }
        if columns[*i].right {
            line.push_str(&blanks);
            line.push_str(&painted);
        } else {
            line.push_str(&painted);
            line.push_str(&blanks);
        }
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column::text("NAME").shrinks_to(6),
        Column::number("BYTES"),
        Column::text("WHY").shrinks_to(8).goes(1),
    ];

    fn rows() -> Vec<Vec<Cell>> {
        let row = |name: &str, bytes: &str, why: &str| {
            vec![
                (name.to_owned(), Mood::Plain),
                (bytes.to_owned(), Mood::Plain),
                (why.to_owned(), Mood::Bad),
            ]
        };
        vec![
            row("cart", "1 B", ""),
            row("a-long-name", "12 B", "because it is so"),
        ]
    }

    fn table(width: Option<usize>) -> String {
        let screen = Screen {
            width,
            ..Screen::plain()
        };
        render(&COLUMNS, &rows(), &screen)
    }

    #[test]
    fn without_bounds_everything_is_shown() {
        let text = "NAME         BYTES  WHY\n\
                    cart           1 B\n\
                    a-long-name   12 B  because it is so\n";
        assert_eq!(table(None), text);
        assert_eq!(table(Some(80)), text);
    }

    #[test]
    fn columns_shrink_before_they_go() {
        let text = "NAME      BYTES  WHY\n\
                    cart        1 B\n\
                    a-long-…   12 B  because…\n";
        assert_eq!(table(Some(25)), text);
        let text = "NAME    BYTES\n\
                    cart      1 B\n\
                    a-lon…   12 B\n";
        assert_eq!(table(Some(13)), text);
    }

    #[test]
    fn colours_take_no_columns() {
        let screen = Screen {
            color: true,
            ..Screen::plain()
        };
        let text = render(&COLUMNS, &rows(), &screen);
        assert!(
            text.contains("   12 B  \x1b[31mbecause it is so\x1b[0m\n"),
            "{text}"
        );
    }
}
