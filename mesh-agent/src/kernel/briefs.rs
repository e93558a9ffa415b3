//! Captured clients' sockets without a state, in an array that this process shares with the kernel.

use std::sync::atomic::{Ordering, fence};

use mesh_common::handover::{BRIEF_PLACES, BRIEF_UNFINISHED, Brief, HandoverKey};
use mesh_common::limits;

use crate::kernel::maps::Shared;

impl Shared<Brief> {
    /// Takes what the client's socket dialled, once.
    pub fn take(&self, client: &HandoverKey) -> Option<Brief> {
        const COOKIE: usize = std::mem::offset_of!(Brief, cookie) / 8;
        const TAKEN: usize = std::mem::offset_of!(Brief, taken) / 8;
        let places = u32::try_from(limits::BRIEFS).ok()?;
        let first = Brief::first_place(client.netns, client.port);
        (0..BRIEF_PLACES).find_map(|next| {
            let place = (first + next) % places;
            let words = self.element(place)?;
            let cookie = words[COOKIE].load(Ordering::Acquire);
            let brief = self.get(place)?;
            let is_it = brief.netns == client.netns
                && brief.port == client.port
                && brief.address == client.address;
            if cookie == 0 || cookie & BRIEF_UNFINISHED != 0 || brief.taken == cookie || !is_it {
                return None;
            }
            // Whoever gets the place after the client has closed changes the cookie before all else.
            fence(Ordering::Acquire);
            if words[COOKIE].load(Ordering::Relaxed) != cookie {
                return None;
            }
            words[TAKEN].store(cookie, Ordering::Relaxed);
            Some(brief)
        })
    }

    /// Returns how many places are taken.
    pub fn count(&self) -> usize {
        let places = (0..u32::try_from(limits::BRIEFS).unwrap_or(0)).map(|place| self.get(place));
        places.flatten().filter(|brief| brief.cookie != 0).count()
    }
}
