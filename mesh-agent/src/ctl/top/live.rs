//! The loop around the live screen: looks, keys, and a terminal that is always given back.

#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::types::Pairs;
use crate::cli::{SortKey, TopArgs};
use crate::ctl::Context;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::top::look;
use crate::ctl::top::rates::Top;
use crate::ctl::top::view::{View, draw};

/// How long the keyboard's thread waits before it sees that nobody listens any more: also the longest time that the
/// program takes to end after `q`.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// Keys that wait to be seen; who types faster than this may lose one.
const KEYS: usize = 16;

/// Gives the terminal back however the loop ends; `ratatui` sees to panics.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

pub(super) async fn run(context: &Context, args: TopArgs, first: Pairs) -> Result<Exit, CtlError> {
    let mut terminal = ratatui::try_init()?;
    let _restore = Restore;
    let view = View {
        sort: args.sort,
        color: context.screen.color,
        ..View::default()
    };
    screen(context, &mut terminal, args.interval, first, view).await
}

async fn screen(
    context: &Context,
    terminal: &mut DefaultTerminal,
    every: Duration,
    mut before: Pairs,
    mut view: View,
) -> Result<Exit, CtlError> {
    let mut keys = keyboard();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once; the first look was just taken.
    ticks.tick().await;
    let mut top = Top::default();
    loop {
        top.sort(view.sort);
        view.offset = view.offset.min(top.rows.len().saturating_sub(1));
        terminal.draw(|frame| draw(frame, &top, &view))?;
        tokio::select! {
            biased;
            _ = terminated.recv() => return Ok(Exit::Fine),
            _ = interrupted.recv() => return Ok(Exit::Fine),
            key = keys.recv() => match key {
                Some(Event::Key(key)) if press(&mut view, key) => return Ok(Exit::Fine),
                // A resize, say: drawn anew above.
                Some(_) => {}
                None => return Ok(Exit::Bad),
            },
            _ = ticks.tick() => match look(context).await {
                Ok(after) => {
                    top = Top::between(&before, &after);
                    before = after;
                    view.error = None;
                }
                // An agent that is being replaced comes back: the screen stays.
                Err(error) => view.error = Some(error.to_string()),
            },
        }
    }
}

/// Changes the view as a key asks. Returns whether it asks to end.
fn press(view: &mut View, key: KeyEvent) -> bool {
    if key.kind == KeyEventKind::Release {
        return false;
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing")]
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Char('b') => view.sort = SortKey::Bytes,
        KeyCode::Char('m') => view.sort = SortKey::Messages,
        KeyCode::Char('f') => view.sort = SortKey::Flows,
        KeyCode::Char('l') => view.sort = SortKey::Latency,
        KeyCode::Char('n') => view.sort = SortKey::Name,
        KeyCode::Down => view.offset += 1,
        KeyCode::Up => view.offset = view.offset.saturating_sub(1),
        KeyCode::PageDown => view.offset += 10,
        KeyCode::PageUp => view.offset = view.offset.saturating_sub(10),
        KeyCode::Home => view.offset = 0,
        _ => {}
    }
    false
}

/// Reads the keyboard on a thread of its own, since that blocks. The thread ends soon after the receiver is gone.
fn keyboard() -> mpsc::Receiver<Event> {
    let (sender, keys) = mpsc::channel(KEYS);
    tokio::task::spawn_blocking(move || -> io::Result<()> {
        while !sender.is_closed() {
            if event::poll(KEY_WAIT)? {
                // Full: the key is lost, as on any busy terminal.
                drop(sender.try_send(event::read()?));
            }
        }
        Ok(())
    });
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_scroll_and_end() {
        let mut view = View::default();
        let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
        for (code, sort) in [
            (KeyCode::Char('m'), SortKey::Messages),
            (KeyCode::Char('l'), SortKey::Latency),
            (KeyCode::Char('x'), SortKey::Latency),
        ] {
            assert!(!press(&mut view, key(code)));
            assert_eq!(view.sort, sort);
        }
        assert!(!press(&mut view, key(KeyCode::Down)));
        assert_eq!(view.offset, 1);
        assert!(!press(&mut view, key(KeyCode::PageUp)));
        assert_eq!(view.offset, 0);
        assert!(press(&mut view, key(KeyCode::Char('q'))));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(press(&mut view, interrupt));
        assert!(!press(&mut view, key(KeyCode::Char('c'))));
    }
}
